"""A model loaded under ZeRO-3: every worker reads its own part of each weight, and none ever holds the model."""

from pathlib import Path
from typing import Any

import torch
import torch.distributed

from raysel.models.loading import make_causal_lm, read_config, say_whether_tied
from raysel.models.weights import SavedWeights, are_saved_as_they_are


def load_partitioned(folder: Path, deepspeed: dict[str, Any], *, dtype: str, trust_remote_code: bool) -> Any | None:
    """The language model in `folder`, whose weights DeepSpeed has sharded over the workers.

    deepspeed: DeepSpeed's settings. The most that a worker has at any time is its parts and one weight whole.
    `ModelError` where the files lack a weight or have it in another shape; None where what is in them is not the
    weights themselves (quantised, or several to be joined).
    """
    config = read_config(folder, dtype=dtype, trust_remote_code=trust_remote_code)
    outline = make_causal_lm(folder, config, trust_remote_code=trust_remote_code, device="meta")
    if not are_saved_as_they_are(outline):
        return None
    model = _without_values(folder, config, deepspeed, trust_remote_code)
    parameters = dict(model.named_parameters())
    with SavedWeights(folder, outline) as weights, torch.no_grad():
        weights.refuse_missing(set(parameters))
        for name, parameter in parameters.items():
            _fill(parameter, weights, name)
        for name, buffer in model.named_buffers():
            if name in weights.names:
                buffer.copy_(weights.read(name).view_as(buffer))
                buffer._is_hf_initialized = True
    # DeepSpeed has made other buffers the weights' type while they were computed (rotary frequencies): computed anew.
    model.initialize_weights()
    return model


def own_range(numbers: int) -> tuple[int, int, int]:
    """Which of a weight's numbers this worker has, from and to before, and how long its part is with what fills it up.

    ZeRO-3 lays a weight out row by row and cuts it into parts of one length; the last ones may reach beyond its end.
    """
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    length = -(-numbers // world)
    start = min(rank * length, numbers)
    return start, min(start + length, numbers), length


def _fill(parameter: Any, weights: SavedWeights, name: str) -> None:
    start, stop, _ = own_range(parameter.ds_numel)
    part = parameter.ds_tensor
    part.zero_()
    part[: stop - start].copy_(weights.read(name, start, stop))
    parameter.ds_secondary_tensor = None  # a second copy within the node (hpZ), made before there was anything to copy
    parameter._is_hf_initialized = True


def _without_values(folder: Path, config: Any, deepspeed: dict[str, Any], trust_remote_code: bool) -> Any:
    """The model with its weights sharded one by one while it is made, and nothing in them yet."""
    from deepspeed.runtime.zero import Init
    from transformers.initialization import no_init_weights
    from transformers.integrations.deepspeed import prevent_arange_dtype_change

    # Rotary embeddings count in integers, which DeepSpeed would make the weights' type.
    with no_init_weights(), prevent_arange_dtype_change(), Init(config_dict_or_path=deepspeed):
        model = make_causal_lm(folder, config, trust_remote_code=trust_remote_code)
    # As was found out while it was made.
    model.tie_weights(recompute_mapping=False)
    say_whether_tied(model)
    return model
