"""Settings models become resources with the same fields, and come back validated."""

from typing import Literal

import dagster as dg
import pytest
from pydantic import BaseModel, Field, ValidationError

from dagster_project.build import SETTINGS
from dagster_project.resources import settings_resource


class Inner(BaseModel):
    url: str = "x"
    limits: tuple[int, int] = (1, 2)


class Outer(BaseModel):
    backend: Literal["a", "b"] = Field("a", description="Backend")
    share: float | None = Field(None, ge=0, le=1)
    inner: Inner = Field(default_factory=Inner)
    names: list[str] = Field(default_factory=lambda: ["n"])


def run_with(config: dict) -> BaseModel:
    got = []

    @dg.op(required_resource_keys={"outer"})
    def look(context):
        got.append(context.resources.outer.build())

    @dg.job(resource_defs={"outer": settings_resource(Outer).configure_at_launch()})
    def job():
        look()

    job.execute_in_process(run_config={"resources": {"outer": {"config": config}}} if config else None)
    return got[0]


def test_defaults_and_overrides_reach_the_stage():
    assert run_with({}) == Outer()
    given = {"backend": "b", "share": 0.5, "inner": {"url": "y", "limits": [3, 4]}, "names": []}
    assert run_with(given) == Outer.model_validate(given)


def test_wrong_values_are_refused_before_or_at_launch():
    with pytest.raises(dg.DagsterInvalidConfigError):
        run_with({"backend": "c"})
    with pytest.raises(dg.DagsterInvalidConfigError):
        run_with({"no_such_setting": 1})
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        run_with({"share": 2.0})


@pytest.mark.parametrize("key", sorted(SETTINGS))
def test_every_settings_model_survives_the_round_trip(key):
    model = SETTINGS[key]
    assert settings_resource(model)().build() == model()


@pytest.mark.parametrize("key", sorted(SETTINGS))
def test_every_setting_is_described(key):
    for name, field in SETTINGS[key].model_fields.items():
        assert field.description, f"{key}.{name}"
