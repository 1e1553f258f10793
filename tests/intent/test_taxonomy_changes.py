"""A change of the taxonomy is planned before anything moves, and refused where no taxonomy would be left."""

import pytest

from app.intent.taxonomy import LONGEST_LEVEL, TaxonomyInvalid
from app.intent.taxonomy_changes import KINDS, NoSuchLabel, PathTaken, Plan, Tree, Wanted, plan

PATHS = {1: "售后 > 退款", 2: "售后 > 换货", 3: "物流", 4: "旧的", 5: "其他"}
TREE = Tree(PATHS, [1, 2, 3, 5], kept=("其他",))


def planned(kind: str, *labels: str, to: str | None = None, into: tuple[str, ...] = (), texts: str = "keep") -> Plan:
    return plan(TREE, Wanted(kind, labels, to, into, texts))


def test_rename_gives_one_label_another_path() -> None:
    assert planned("rename", "物流", to="配送") == Plan((3,), {3: "配送"})


def test_rename_of_an_inner_node_renames_all_below_it() -> None:
    assert planned("rename", "售后", to="服务 > 售后").paths == {1: "服务 > 售后 > 退款", 2: "服务 > 售后 > 换货"}


def test_move_keeps_the_last_level_and_changes_what_is_above() -> None:
    assert planned("move", "售后 > 退款", to="钱").paths == {1: "钱 > 退款"}
    assert planned("move", "售后", to="服务").paths == {1: "服务 > 售后 > 退款", 2: "服务 > 售后 > 换货"}
    assert planned("move", "售后 > 退款").paths == {1: "退款"}


def test_paths_are_written_as_labels_are() -> None:
    assert planned("rename", "物流", to="配送 >  快递 ").paths == {3: "配送 > 快递"}


def test_merge_retires_the_sources_and_not_the_target() -> None:
    both = planned("merge", "售后 > 退款", "售后 > 换货", to="售后 > 换货")
    assert (both.touched, both.retired, both.target) == ((1,), (1,), "售后 > 换货")
    # The inner node becomes a leaf when all that is below it leaves.
    assert planned("merge", "售后 > 退款", "售后 > 换货", to="售后").given == ("售后",)


def test_retire_asks_the_texts_again_only_when_told_to() -> None:
    assert planned("retire", "物流") == Plan((3,), {}, retired=(3,))
    assert planned("retire", "物流", texts="requeue").requeues


def test_split_retires_the_label_and_gives_its_parts() -> None:
    parts = planned("split", "物流", into=("物流 > 慢", "物流 > 丢"))
    assert (parts.retired, parts.given, parts.requeues) == ((3,), ("物流 > 慢", "物流 > 丢"), True)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_refuses_a_label_that_is_not_given_and_names_the_near_ones(kind: str) -> None:
    with pytest.raises(NoSuchLabel) as caught:
        planned(kind, "物流单", to="别的", into=("一", "二"))
    assert caught.value.near == ["物流"]
    with pytest.raises(NoSuchLabel):
        planned(kind, "旧的", to="别的", into=("一", "二"))


@pytest.mark.parametrize("kind", KINDS)
def test_the_label_for_everything_else_keeps_its_name_and_never_leaves(kind: str) -> None:
    with pytest.raises(TaxonomyInvalid, match="其他"):
        planned(kind, "其他", to="别的", into=("一", "二"))


@pytest.mark.parametrize(
    ("kind", "label", "to"),
    [("rename", "物流", "售后 > 退款"), ("rename", "物流", "旧的"), ("move", "售后 > 退款", None)],
)
def test_a_path_that_another_label_has_is_taken_though_that_one_is_retired(
    kind: str, label: str, to: str | None
) -> None:
    tree = Tree({**PATHS, 6: "退款"}, [1, 2, 3, 5, 6])
    with pytest.raises(PathTaken, match="merge"):
        plan(tree, Wanted(kind, (label,), to))


@pytest.mark.parametrize(
    ("kind", "labels", "to", "into", "message"),
    [
        ("rename", ("物流",), None, (), "renamed to"),
        ("rename", ("物流",), "物流", (), "already"),
        ("rename", ("物流", "售后"), "别的", (), "one label"),
        ("rename", ("物流",), "售后", (), "below it"),
        ("rename", ("物流",), "售后 > 退款 > 快", (), "below it"),
        ("rename", ("物流",), "长" * (LONGEST_LEVEL + 1), (), "characters"),
        ("rename", ("物流",), " > ".join("abcdefghi"), (), "levels"),
        ("move", ("售后",), "售后 > 退款", (), "below itself"),
        ("merge", ("物流",), "物流", (), "beside"),
        ("merge", ("物流",), None, (), "merged into"),
        ("split", ("物流",), None, ("物流 > 慢",), "at least two"),
        ("split", ("物流",), None, ("物流", "别的"), "another name"),
        ("split", ("物流",), None, ("售后", "别的"), "below it"),
        ("retire", ("售后 > 退款", "售后 > 换货", "物流", "其他"), None, (), "never leaves"),
        ("retire", (), None, (), "name the label"),
    ],
)
def test_what_would_leave_no_taxonomy_is_refused(
    kind: str, labels: tuple[str, ...], to: str | None, into: tuple[str, ...], message: str
) -> None:
    with pytest.raises(TaxonomyInvalid, match=message):
        planned(kind, *labels, to=to, into=into)


def test_the_last_label_cannot_leave() -> None:
    with pytest.raises(TaxonomyInvalid, match="no labels"):
        plan(Tree({1: "甲"}, [1]), Wanted("retire", ("甲",)))
