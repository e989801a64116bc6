from tests.training.conftest import alone

__all__ = ["alone"]
