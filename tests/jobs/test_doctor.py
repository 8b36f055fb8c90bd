"""The doctor: sound where all is well, not where something is wrong, and nothing private in what is pasted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from sfumato.jobs import doctor, find
from tests.jobs.small import sfumato

SECRET = "hunter2-canary"


def test_the_report_says_what_there_is_and_keeps_secrets(
    tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str]
):
    home = tmp_path / "home" / "alicecanary"
    (home / "project" / "deep" / "er").mkdir(parents=True)
    monkeypatch.chdir(home / "project" / "deep" / "er")
    monkeypatch.setenv("HOME", str(home))
    for name in ("API_TOKEN", "USER", "HOSTNAME", "HTTP_PROXY", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, f"https://{SECRET}@host/")
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX2")
    assert sfumato("doctor", "--quick") == 0
    out = capsys.readouterr().out
    assert SECRET not in out
    assert "alicecanary" not in out
    assert "DNNL_MAX_CPU_ISA=AVX2" in out
    assert "~/.../deep/er" in out
    for word in (
        "sfumato",
        "python",
        f"torch {torch.__version__}",
        "threads",
        "capability",
        "bf16",
        "GB free",
        "in all    sound",
    ):
        assert word in out
    assert out.endswith("sound\n")


@pytest.mark.parametrize(("path", "shown"), [
    ("/home/alice", "~"), ("/home/alice/x", "~/x"), ("/home/alice/a/b/c/d", "~/.../c/d"), ("/Users/alice/a", "~/a"),
    ("/data/a/b/c", "/.../b/c"), ("/data", "/data"), ("/", "/"),
])  # fmt: skip
def test_a_path_says_where_and_not_whose(path: str, shown: str):
    assert doctor.shortened(Path(path)) == shown


def test_what_a_field_lacks_comes_with_the_words_that_bring_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(find, "missing", lambda name: ("lightgbm>=4.5",) if name == "tables" else ())
    (line,) = [line for line in doctor.fields() if line.startswith("tables")]
    assert "lightgbm" in line
    assert "pip install -e '.[tables]'" in line


def test_the_self_test_passes_here_and_fails_for_a_broken_sampler(monkeypatch: pytest.MonkeyPatch):
    drawn = doctor.drawn
    monkeypatch.setattr(doctor, "drawn", lambda *given: drawn(*given) * 1.3 if len(given[2]) > 1 else drawn(*given))
    broken = list(doctor.self_test())
    assert [check.what.split(",")[0] for check in broken if not check.holds][:1] == ["sample 7 alone and among all"]
    assert any("covariance" in check.what for check in broken if not check.holds)
    monkeypatch.setattr(doctor, "drawn", drawn)
    assert [str(check) for check in doctor.self_test() if not check.holds] == []


def test_a_number_that_is_none_does_not_hold():
    assert not doctor.Check("x", float("nan"), 1.0).holds
