"""From a torch module to verified programs: TorchScript, ONNX, AOTInductor, and the report of what each method gave.

Entry points: ``policy_export.PolicyExporter`` and ``module_export.export_module``. ``publishing``, ``sb3``,
``training``
and ``rl_hotswap`` import this folder.
"""
