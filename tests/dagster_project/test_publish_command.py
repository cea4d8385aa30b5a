"""`itryon publish`: what it writes, what it says is missing, and how it refuses."""

from __future__ import annotations

from typer.testing import CliRunner

from dagster_project.cli import app
from dagster_project.terminal import console
from pipelines.store import DeltaStore
from tests.pipelines.published_lake import ID, fill
from tests.pipelines.scored_checkpoints import add_checkpoint


def test_a_checkpoint_is_published_or_refused_with_what_to_do(lake: DeltaStore, monkeypatch, tmp_path):
    monkeypatch.setenv("ITRYON_LAKE", lake.root)
    monkeypatch.setattr(console, "width", 240)

    def run(*arguments: str):
        done = CliRunner().invoke(app, ["publish", *arguments])
        return done.exit_code, " ".join(done.output.split())

    out = tmp_path / "model"
    code, said = run("current", "--out", str(out))
    assert code == 1 and "No checkpoint was promoted yet" in said and not out.exists()
    fill(lake, tmp_path)
    code, said = run("current", "--out", str(out))
    assert code == 0 and f"checkpoint {ID}: {out / 'README.md'}" in said
    assert "missing on the card vfid_resnext_unpaired: needs x.pth" in said
    assert "3 pictures show people" in said and len(list((out / "figures").iterdir())) == 3
    code, said = run(ID, "--out", str(out))
    assert code == 1 and "name another one with --out" in said
    code, said = run(ID[:8], "--out", str(tmp_path / "other"))
    assert code == 1 and "Several checkpoints start with" in said
    code, said = run("nobody", "--out", str(tmp_path / "other"))
    assert code == 1 and "There is no checkpoint 'nobody': `itryon leaderboard` lists those there are" in said
    add_checkpoint(lake, "dead000000000000", videos=[])
    code, said = run("dead0000", "--out", str(tmp_path / "other"))
    assert code == 1 and "The weights in" in said and "dead000000000000" in said, "found, but never trained"
    code, said = run(ID, "--out", str(tmp_path / "plain"), "--no-pictures", "--license", "cc0-1.0")
    assert code == 0 and "pictures" not in said
    assert "license: cc0-1.0" in (tmp_path / "plain" / "README.md").read_text()
