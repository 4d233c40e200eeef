"""From a torch module to verified programs (TorchScript, ONNX, AOTInductor) and a report of each export method.

Entry points: ``policy_export.PolicyExporter`` and ``module_export.export_module``. ``publishing``, ``sb3``,
``training`` and ``rl_hotswap`` import this folder.
"""
