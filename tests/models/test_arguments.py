"""Settings classes as options of a command."""

from argparse import ArgumentParser

import pytest
from pydantic import BaseModel, Field, ValidationError

from models.arguments import add_settings, read_settings


class _Inner(BaseModel):
    depth: int = 3


class _Settings(BaseModel):
    steps: int = Field(10, ge=1, description="Steps")
    drop_share: float = Field(0.5, description="Share, 50 % by default")
    device: str = Field("cpu", description="Device")
    inner: _Inner = Field(default_factory=_Inner, description="More")


@pytest.fixture
def parser():
    parser = ArgumentParser(prog="command")
    parser.add_argument("--out")
    add_settings(parser, _Settings)
    return parser


def test_given_fields_replace_defaults(parser):
    options = parser.parse_args(["--drop-share", "0.25", "--device", "cuda", "--out", "x"])
    settings = read_settings(options, _Settings)
    assert settings == _Settings(drop_share=0.25, device="cuda")
    assert settings.model_fields_set == {"drop_share", "device"}
    assert read_settings(parser.parse_args([]), _Settings) == _Settings()


def test_values_must_be_of_the_type_and_in_the_range(parser, capsys):
    with pytest.raises(SystemExit):
        parser.parse_args(["--steps", "1.5"])
    assert "--steps" in capsys.readouterr().err
    with pytest.raises(ValidationError, match="steps"):
        read_settings(parser.parse_args(["--steps", "0"]), _Settings)


def test_help_tells_description_and_default(parser):
    text = parser.format_help()
    assert "Share, 50 % by default (default: 0.5)" in " ".join(text.split())
    assert "inner" not in text


def test_fields_without_a_default_must_be_given():
    class Needed(BaseModel):
        name: str

    parser = ArgumentParser()
    add_settings(parser, Needed)
    with pytest.raises(SystemExit):
        parser.parse_args([])
    assert read_settings(parser.parse_args(["--name", "a"]), Needed).name == "a"
