"""Finding a model's files and loading it: safetensors only, no remote code unless asked for by name."""

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raysel.errors import UserError
from raysel.models.templates import NAMED_TEMPLATES

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Those whose encoder takes the prompt and whose decoder answers, with relative positions: what all rooms are made for.
ENCODER_DECODERS = ("t5", "mt5", "umt5")
HEAD = "lm_head.weight"
MODEL_FILES = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken"]


class ModelError(UserError):
    """A model that cannot be found or loaded as asked."""


def find_model(path: str, *, revision: str | None = None, trust_remote_code: bool = False) -> Path:
    """The local folder of `path`: itself if it is a folder, else the Hugging Face snapshot of that name.

    Raises `ModelError` where there is neither, where the folder has no config, weights or tokenizer, or where the model
    is an encoder-decoder of another family than `ENCODER_DECODERS`.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        if folder.is_absolute() or path.startswith(".") or path.count("/") > 1:
            raise ModelError(f"model.path {path!r}: there is no such folder")
        folder = _download(path, revision, [*MODEL_FILES, *(["*.py"] if trust_remote_code else [])])
    files = {file.name for file in folder.iterdir()}
    if "config.json" not in files:
        raise ModelError(f"model folder {folder}: config.json is missing; it holds {_listed(files)}")
    if not any(name.endswith(".safetensors") for name in files):
        other = [name for name in files if name.endswith((".bin", ".pt", ".pth"))]
        hint = f" ({other[0]} is a pickle and is not loaded: convert it to safetensors)" if other else ""
        raise ModelError(f"model folder {folder}: no *.safetensors weights{hint}; it holds {_listed(files)}")
    if not any(name.startswith("tokenizer") or name in {"vocab.json", "spiece.model"} for name in files):
        raise ModelError(f"model folder {folder}: no tokenizer files; it holds {_listed(files)}")
    _refuse_damaged(folder)
    return folder


def is_here(path: str, revision: str | None = None) -> bool:
    """Whether `path` is a folder, or a name whose config has been fetched from the hub before."""
    from huggingface_hub import try_to_load_from_cache

    if Path(path).expanduser().is_dir():
        return True
    return isinstance(try_to_load_from_cache(path, "config.json", revision=revision), str)


def _refuse_damaged(folder: Path) -> None:
    """Read the config and the headers of the weights: a truncated download is found before any work is done."""
    from safetensors import SafetensorError, safe_open

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"model folder {folder}: config.json is not JSON: {error}") from error
    _refuse_other_encoder_decoders(folder, config)
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="np"):
                pass
        except SafetensorError as error:
            raise ModelError(f"model folder {folder}: {file.name} is damaged: {error}") from error


def _refuse_other_encoder_decoders(folder: Path, config: dict[str, Any]) -> None:
    if config.get("is_encoder_decoder") and config.get("model_type") not in ENCODER_DECODERS:
        raise ModelError(
            f"model folder {folder}: {config.get('model_type', 'this')} is an encoder-decoder model, of which only "
            f"{', '.join(ENCODER_DECODERS)} can be used here: choose one of them, or a causal language model"
        )


def decoder_start(config: Mapping[str, Any]) -> int | None:
    """The token that the decoder of an encoder-decoder begins with; None for a decoder alone. config: of the model."""
    if not config.get("is_encoder_decoder"):
        return None
    # T5 begins with the padding, token 0 in all its vocabularies.
    return int(config.get("decoder_start_token_id") or config.get("pad_token_id") or 0)


def _download(name: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ModelError(
            f"model.path {name!r} is neither a folder here nor a model that can be fetched by that name: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _listed(files: set[str]) -> str:
    return ", ".join(sorted(files)[:8]) or "nothing"


def refuse_without_template(folder: Path, template: str) -> None:
    """`ModelError` where `template` is `auto` and the files of the tokenizer in `folder` hold no chat template."""
    files = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
    if template != "auto" or any((folder / name).exists() for name in files):
        return
    config = folder / "tokenizer_config.json"
    if not (config.is_file() and "chat_template" in json.loads(config.read_text(encoding="utf-8"))):
        raise _no_template(folder)


def _no_template(folder: str | Path) -> ModelError:
    return ModelError(
        f"the tokenizer in {folder} has no chat template; set model.template to one of {', '.join(NAMED_TEMPLATES)}, "
        "or to a Jinja file"
    )


def load_tokenizer(
    folder: str | Path, template: str = "auto", *, trust_remote_code: bool = False
) -> "PreTrainedTokenizerBase":
    """The tokenizer with `template` (auto, a name, Jinja text) as chat template. `ModelError` where auto finds none."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except (ValueError, OSError) as error:
        raise ModelError(f"the tokenizer in {folder} cannot be loaded: {error}") from error
    if template != "auto":
        tokenizer.chat_template = NAMED_TEMPLATES.get(template, template)
    elif not tokenizer.chat_template:
        raise _no_template(folder)
    return tokenizer


def load_causal_lm(
    folder: str | Path,
    *,
    adapter: str | Path | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    device_map: str | None = None,
) -> "PreTrainedModel":
    """The language model in `folder`, a decoder or an encoder with a decoder as its config says, with the PEFT adapter
    in `adapter` on it if one is given.

    device_map: "balanced" splits the blocks over the GPUs that this process sees.
    """
    kind, as_the_head_is = _kind(folder)
    with as_the_head_is:
        model: PreTrainedModel = _load(kind, folder, dtype, trust_remote_code, device_map=device_map)
    say_whether_tied(model)
    if adapter is not None:
        from peft import PeftModel

        model = PeftModel.from_pretrained(model, str(adapter))
    return model


def read_config(folder: str | Path, *, dtype: str, trust_remote_code: bool = False) -> Any:
    """The config of the model in `folder`, for one whose weights are of `dtype`; auto: as the config itself says."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(f"the model in {folder} cannot be loaded: {error}") from error
    if dtype != "auto":
        config.dtype = dtype
    return config


def make_causal_lm(
    folder: str | Path, config: Any, *, trust_remote_code: bool = False, device: str | None = None
) -> "PreTrainedModel":
    """The language model in `folder` with `config`, but without its weights; on `device` (meta), left open: on torch's
    own."""
    import torch
    from transformers.initialization import meta_device_safe_creation_ops

    kind, as_the_head_is = _kind(folder)
    try:
        with as_the_head_is, ExitStack() as on:
            if device is not None:
                on.enter_context(torch.device(device))
                # What custom code computes of numbers while it is made.
                on.enter_context(meta_device_safe_creation_ops())
            model: PreTrainedModel = kind.from_config(config, trust_remote_code=trust_remote_code)
        if model.can_generate():
            model.generation_config = _generation_config(Path(folder))
    except (ValueError, KeyError, OSError) as error:
        raise ModelError(f"the model in {folder} cannot be loaded: {error}") from error
    return model.eval()


def _generation_config(folder: Path) -> Any:
    """Of its own file, or what config.json says of generation."""
    from transformers import GenerationConfig
    from transformers.utils import GENERATION_CONFIG_NAME

    if (folder / GENERATION_CONFIG_NAME).exists():
        return GenerationConfig.from_pretrained(str(folder))
    return GenerationConfig.from_pretrained(str(folder), config_file_name="config.json", _from_model_config=True)


def say_whether_tied(model: "PreTrainedModel") -> None:
    """mT5's config says in transformers 5 that the head is tied, whatever the checkpoint has; lm-eval ties it then."""
    head = model.get_output_embeddings()
    if head is not None and head.weight is not model.get_input_embeddings().weight:
        model.config.tie_word_embeddings = False


def _kind(folder: str | Path) -> tuple[Any, AbstractContextManager[None]]:
    """The class that makes the model in `folder`, and what is to be open while it does."""
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    kind = AutoModelForSeq2SeqLM if _has_encoder(folder) else AutoModelForCausalLM
    return kind, _own_head(Path(folder))


def load_encoder(
    folder: str | Path, *, dtype: str = "auto", trust_remote_code: bool = False, device_map: str | None = None
) -> "PreTrainedModel":
    """The model without its language-model head, of an encoder-decoder the encoder alone: its last hidden state is the
    one after the final norm.

    device_map: "balanced" splits the blocks over the GPUs that this process sees.
    """
    from transformers import AutoModel, AutoModelForTextEncoding

    kind = AutoModelForTextEncoding if _has_encoder(folder) else AutoModel
    return _load(kind, folder, dtype, trust_remote_code, device_map=device_map)


def embedding_modules(model: Any) -> list[Any]:
    """The modules that make embeddings of tokens: every forward begins in one of them.

    The encoder and the decoder of an encoder-decoder have one each, with the same weights; the model's own, which
    `get_input_embeddings` gives, is never called.
    """
    parts = [model.get_encoder(), model.get_decoder()] if model.config.is_encoder_decoder else [model]
    return [part.get_input_embeddings() for part in parts]


@contextmanager
def _own_head(folder: Path) -> Iterator[None]:
    """While open, a model is not tied to its head where the checkpoint in `folder` has another one than its embeddings.

    transformers 5 compares the two before it ties them (of all T5s it thinks that they are tied); where it has no
    values to compare (under ZeRO-3, of a model without weights), it would tie what differs.
    """
    import transformers

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    made: Any = getattr(transformers, str((config.get("architectures") or [None])[0]), None)
    tied: Any = getattr(made, "_tied_weights_keys", None)
    source = tied.get(HEAD) if isinstance(tied, Mapping) else None
    if source is None or not _differ(folder, HEAD, source):
        yield
        return
    made._tied_weights_keys = {name: other for name, other in tied.items() if name != HEAD}
    try:
        yield
    finally:
        made._tied_weights_keys = tied


def _differ(folder: Path, head: str, embeddings: str) -> bool:
    """Whether both are stored, with other numbers; the embeddings also without the name of the model's body."""
    own = _first_rows(folder, head)
    others = [rows for name in (embeddings, embeddings.partition(".")[2]) if (rows := _first_rows(folder, name))]
    return own is not None and bool(others) and own not in others


def _first_rows(folder: Path, name: str) -> bytes | None:
    """The beginning of a stored weight; None where there is none of that name."""
    from safetensors import safe_open

    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as stored:
            if name in stored.keys():  # noqa: SIM118 - not a dict
                return bytes(stored.get_slice(name)[:8].float().numpy().tobytes())
    return None


def _has_encoder(folder: str | Path) -> bool:
    config = Path(folder) / "config.json"
    return config.is_file() and decoder_start(json.loads(config.read_text(encoding="utf-8"))) is not None


def _load(kind: Any, folder: str | Path, dtype: str, trust_remote_code: bool, **more: Any) -> Any:
    from safetensors import SafetensorError

    how = {"dtype": dtype, "use_safetensors": True, "trust_remote_code": trust_remote_code, **more}
    try:
        return kind.from_pretrained(str(folder), **how)
    except (ValueError, KeyError, OSError, SafetensorError) as error:
        raise ModelError(f"the model in {folder} cannot be loaded: {error}") from error
