"""The image of components and pipelines that the plain kfp SDK compiles.

kfp fixes a component's image where it is declared. These classes put the image that ``CLIPSEG_KFP_IMAGE`` or
``clipseg_kfp.use_image`` names into whatever is compiled, and warn where there is none: nodes would look for a name
without a registry, and the pod would wait for it. Local runs, and this project's own compiling, are left alone.
"""

import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from kfp import dsl
from kfp.dsl import graph_component, pipeline_context, python_component
from kfp.pipeline_spec import pipeline_spec_pb2

from clipseg_kfp.site.image import DEFAULT_IMAGE, VARIABLE, chosen_image

_own_graph: ContextVar[bool] = ContextVar("own_graph", default=False)
_warned: "weakref.WeakSet[Any]" = weakref.WeakSet()


class Component(python_component.PythonComponent):  # type: ignore[misc]
    """A component of this suite."""

    def __call__(self, *args: Any, **kwargs: Any) -> dsl.PipelineTask:
        """Makes a task, in a pipeline of somebody's own with the chosen image."""
        task = super().__call__(*args, **kwargs)
        if _in_others_pipeline() and (image := chosen_image()):
            task.set_container_image(image)
        return task

    @property
    def pipeline_spec(self) -> Any:
        """What kfp compiles."""
        return _carrying(super().pipeline_spec)


class Pipeline(graph_component.GraphComponent):  # type: ignore[misc]
    """A pipeline of this suite."""

    def __call__(self, *args: Any, **kwargs: Any) -> dsl.PipelineTask:
        """Makes a task of the whole pipeline, in one of somebody's own with the chosen image."""
        task = super().__call__(*args, **kwargs)
        if _in_others_pipeline() and (image := chosen_image()):
            task.pipeline_spec = _with_image(task.pipeline_spec, image)
        return task

    @property
    def pipeline_spec(self) -> Any:
        """What kfp compiles."""
        return _carrying(super().pipeline_spec)


def carry_image(made: Any) -> None:
    """Lets what ``@dsl.component`` or ``@dsl.pipeline`` made carry the chosen image.

    kfp's decorators make objects of its own classes; only their class is replaced.
    """
    made.__class__ = Pipeline if isinstance(made, graph_component.GraphComponent) else Component


@contextmanager
def own_graph() -> Iterator[None]:
    """Leaves the images of tasks to this project's own pipelines, whose settings name them."""
    token = _own_graph.set(True)
    try:
        yield
    finally:
        _own_graph.reset(token)


def _in_others_pipeline() -> bool:
    """Whether a pipeline is being traced that is not this project's own; the first time without an image warns."""
    pipeline = pipeline_context.Pipeline.get_default_pipeline()
    if pipeline is None or _own_graph.get():
        return False
    if not chosen_image() and pipeline not in _warned:
        _warned.add(pipeline)
        _warn(stacklevel=4)
    return True


def _carrying(spec: Any) -> Any:
    image = chosen_image()
    if not image:
        _warn(stacklevel=4)
    return _with_image(spec, image) if image else spec


def _with_image(spec: Any, image: str) -> Any:
    changed = pipeline_spec_pb2.PipelineSpec()
    changed.CopyFrom(spec)
    for executor in changed.deployment_spec["executors"].values():
        executor["container"]["image"] = image
    return changed


def _warn(stacklevel: int) -> None:
    warnings.warn(
        f"The image {DEFAULT_IMAGE} names no registry, and nodes will not find it unless it was loaded onto them. "
        f"Name yours before: {VARIABLE} in the environment, or clipseg_kfp.use_image("
        '"registry.example/clipseg-kfp@sha256:…").',
        stacklevel=stacklevel,
    )
