"""One module a component: files and parameters in, files out.

A step's ``run`` takes what its component takes, under the same names, with paths in place of artifacts;
its ``handover`` says what of the result goes to Kubeflow. ``running`` is all that stands between them and KFP.
"""
