"""What an export says of how long it will take, and in which order its studies come."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from scripts.work.local_export import Pace
from scripts.work.shard_writing import FilmReader, Prepared


class Rows(FilmReader):
    """A reader of no films."""

    def __init__(self) -> None:
        pass

    def read(self, row: int) -> Prepared:
        return Prepared(row)


@pytest.mark.parametrize("count", [0, 1, 17, 100])
@pytest.mark.parametrize("most", [1, 8, 64])
def test_studies_come_in_their_order_however_many_a_thread_reads_at_a_time(count: int, most: int) -> None:
    with ThreadPoolExecutor(3) as pool:
        assert [study.row for study in Rows().ahead(pool, range(count), most)] == list(range(count))


def test_a_long_export_is_told_once_by_its_first_films_and_not_by_the_warming_up() -> None:
    pace = Pace(224_000)
    assert pace.after(16, 100.0) is None  # 16 studies at once, after a conversion of a minute
    assert pace.after(16, 105.0) is None

    told = pace.after(16, 125.0)

    assert told is not None
    assert told.startswith("about 1.3 studies a second, so about 49 hours for the 223,952 studies to come")
    assert pace.after(16, 150.0) is None


def test_of_a_short_export_nothing_is_said() -> None:
    pace = Pace(2000)
    assert [pace.after(100, now) for now in (0.0, 6.0, 12.0, 18.0)] == [None] * 4
