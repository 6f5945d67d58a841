import pytest

from studio_runner.machine.cards import NO_ASSIGNMENT, Assignment
from studio_runner.machine.gpus.card import AMD, Card
from studio_runner.machine.gpus.visible import order_is_certain, variables, visible

CARDS = [
    Card("GPU-aa11", "A100", 1, index=0),
    Card("GPU-aa22", "A100", 1, index=1),
    Card("MIG-0001", "A100", 1, index=2, parent="GPU-bb33", instance=(1, 0)),
    Card("MIG-0002", "A100", 1, index=2, parent="GPU-bb33", instance=(2, 0)),
    Card("GPU-cc44", "T4", 1, index=4),  # 3 does not answer
    Card("GPU-dd55", "MI300X", 1, index=0, vendor=AMD),
    Card("GPU-dd66", "MI300X", 1, index=1, vendor=AMD),
]
NVIDIA = [card.uuid for card in CARDS[:5]]


def cuda(said, **more):
    found = visible(CARDS, {"CUDA_VISIBLE_DEVICES": said, **more})
    return [card.uuid for card in found if card.vendor != AMD]


def amd(**said):
    return [card.uuid for card in visible(CARDS, said) if card.vendor == AMD]


def test_all_of_them_where_nothing_is_said():
    assert visible(CARDS, {}) == CARDS


@pytest.mark.parametrize("said", ["", "-1", "NoDevFiles", "none", ",0", "-1,0", " "])
def test_none_of_them(said):
    assert cuda(said) == []
    assert len(amd(CUDA_VISIBLE_DEVICES=said)) == 2


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("0", ["GPU-aa11"]),
        ("1,0", ["GPU-aa22", "GPU-aa11"]),
        (" 1 , 0 ", ["GPU-aa22", "GPU-aa11"]),
        ("0,7,1", ["GPU-aa11"]),
        ("0,3,1", ["GPU-aa11"]),
        ("0,-1,1", ["GPU-aa11"]),
        ("4", ["GPU-cc44"]),
        ("2", ["MIG-0001", "MIG-0002"]),
        ("1,1", ["GPU-aa22"]),
        ("GPU-aa22,GPU-aa11", ["GPU-aa22", "GPU-aa11"]),
        ("GPU-c,GPU-aa1", ["GPU-cc44", "GPU-aa11"]),
        ("GPU-aa", []),
        ("GPU-aa11,GPU-a,GPU-cc44", ["GPU-aa11"]),
        ("GPU-", []),
        ("GPU-bb33", ["MIG-0001", "MIG-0002"]),
        ("MIG-0002", ["MIG-0002"]),
        ("MIG-000", []),
        ("MIG-0002,MIG-0001", ["MIG-0002", "MIG-0001"]),
        ("MIG-GPU-bb33/2/0", ["MIG-0002"]),
        ("MIG-GPU-bb33/3/0", []),
        ("MIG-GPU-bb33/x/0", []),
        ("0x1", []),
    ],
)
def test_the_runners_own_list_is_read_as_cuda_reads_it(said, expected):
    assert cuda(said) == expected


def test_hip_counts_among_what_rocr_leaves():
    assert amd(ROCR_VISIBLE_DEVICES="1") == ["GPU-dd66"]
    assert amd(ROCR_VISIBLE_DEVICES="GPU-dd66,0", HIP_VISIBLE_DEVICES="0") == ["GPU-dd66"]
    assert amd(HIP_VISIBLE_DEVICES="1") == ["GPU-dd66"]
    assert amd(HIP_VISIBLE_DEVICES="-1") == []


def test_an_index_means_one_card_for_certain_only_where_cuda_counts_like_the_bus():
    indices = {"CUDA_VISIBLE_DEVICES": "0,1"}
    assert not order_is_certain(CARDS, indices)
    assert order_is_certain(CARDS, {**indices, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert order_is_certain(CARDS[:4], indices)
    assert order_is_certain(CARDS, {"CUDA_VISIBLE_DEVICES": "GPU-aa11"})
    assert order_is_certain(CARDS, {})


def test_an_experiment_sees_its_own_cards_and_no_others():
    assert variables(Assignment(("GPU-b", "GPU-a"))) == {
        "CUDA_VISIBLE_DEVICES": "GPU-b,GPU-a",
        "NVIDIA_VISIBLE_DEVICES": "GPU-b,GPU-a",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "ROCR_VISIBLE_DEVICES": "-1",
        "HIP_VISIBLE_DEVICES": "-1",
    }
    none = variables(NO_ASSIGNMENT)
    assert {none[name] for name in none if name.endswith("VISIBLE_DEVICES")} == {"-1"}
    amd_only = variables(Assignment(("GPU-c", "GPU-d"), AMD))
    assert amd_only["ROCR_VISIBLE_DEVICES"] == "GPU-c,GPU-d"
    assert amd_only["HIP_VISIBLE_DEVICES"] == "0,1"
    assert amd_only["CUDA_VISIBLE_DEVICES"] == "-1"
