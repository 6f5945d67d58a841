from pathlib import Path

import pytest

from studio_runner.machine.gpus.card import Card
from studio_runner.machine.gpus.nvml import HARMLESS
from studio_runner.machine.gpus.slots import OLD, UNKNOWN, is_known, with_slots


def slots(name, configured=(), **more):
    return with_slots(Card("GPU-1", name, 1, **more), configured).slots


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("NVIDIA GeForce GTX 1080 Ti", 2), ("NVIDIA TITAN X (Pascal)", 2), ("GeForce RTX 2080 Ti", 2), ("Tesla K80", 2),
        ("Tesla P40", 4), ("Tesla P100-PCIE-16GB", 8), ("Tesla V100-SXM2-32GB", 16), ("NVIDIA A100-SXM4-80GB", 24),
        ("NVIDIA A100 80GB PCIe", 24),
    ],
)  # fmt: skip
def test_old_cards_have_the_slots_of_the_interface(name, expected):
    assert slots(name) == expected
    assert OLD


@pytest.mark.parametrize(
    ("name", "beside"),
    [
        ("NVIDIA A10", "NVIDIA A100-PCIE-40GB"), ("NVIDIA L4", "NVIDIA L40S"), ("NVIDIA RTX 6000", "NVIDIA RTX 6000 Ada Generation"),
        ("NVIDIA GeForce RTX 3060", "NVIDIA GeForce RTX 3060 Ti"), ("NVIDIA A100-SXM4-40GB", "NVIDIA H100 80GB HBM3"),
        ("NVIDIA H100 PCIe", "NVIDIA H200"), ("NVIDIA GeForce RTX 4090", "NVIDIA GeForce RTX 5090"), ("NVIDIA A2", "NVIDIA A30"),
        ("AMD Instinct MI250X", "AMD Instinct MI300X OAM"),
    ],
)  # fmt: skip
def test_the_longest_name_wins_and_larger_cards_have_more(name, beside):
    assert 0 < slots(name) < slots(beside)


@pytest.mark.parametrize(
    "name",
    ["NVIDIA A100", "NVIDIA H100 NVL", "NVIDIA H200", "NVIDIA L4", "NVIDIA L40S", "NVIDIA A10G", "NVIDIA A30", "Tesla T4"]
    + [f"NVIDIA GeForce RTX {model}" for model in (2060, 2070, 2080, 3050, 3060, 3070, 3080, 3090, 4060, 4070, 4080, 4090)]
    + [f"NVIDIA GeForce RTX {model}" for model in (5050, 5060, 5070, 5080, 5090)]
    + ["NVIDIA RTX A6000", "NVIDIA RTX PRO 6000 Blackwell Server Edition", "AMD Instinct MI210"],
)  # fmt: skip
def test_current_cards_are_known(name):
    assert is_known(Card("GPU-1", name, 1))


def test_an_unknown_card_has_the_documented_number():
    assert slots("Voodoo 2") == UNKNOWN
    assert not is_known(Card("GPU-1", "Voodoo 2", 1))


def test_the_operator_has_the_last_word():
    mine = (("A100", 30), ("voodoo", 1), ("RTX 6000", 9))
    assert slots("NVIDIA A100-SXM4-80GB", mine) == 30
    assert slots("Voodoo 2", mine) == 1
    assert slots("NVIDIA RTX 6000 Ada Generation", mine) == 9
    assert slots("NVIDIA A10", mine) == slots("NVIDIA A10")


def test_an_instance_has_its_share_of_the_card():
    part = {"parent": "GPU-0", "profile": "3g.20gb", "share": 3 / 7}
    assert slots("NVIDIA A100-SXM4-40GB", **part) == 10
    assert slots("NVIDIA A100-SXM4-40GB", (("A100", 28),), **part) == 12
    assert slots("NVIDIA A100-SXM4-40GB", (("MIG 3g.20gb", 11), ("A100", 28)), **part) == 11
    assert slots("NVIDIA A30", parent="GPU-0", profile="1g.6gb", share=1 / 40) == 1


def test_the_page_tells_of_the_default_and_of_the_faults_that_are_none():
    page = (Path(__file__).parents[2] / "docs" / "reference" / "gpus.md").read_text()
    assert f"a card with none of them has {UNKNOWN}." in page
    assert ", ".join(map(str, sorted(HARMLESS))) in page
