"""The file that Python imports at its start in processes without TorchScript; see ``without_torchscript``."""
