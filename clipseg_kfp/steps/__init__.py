"""One module per component: files and parameters in, files out.

A step's ``run`` takes the arguments of its component, with paths in place of artifacts; its ``handover`` returns what
goes to Kubeflow. Only ``running`` knows KFP.
"""
