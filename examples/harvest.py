"""One program for three engines: tasks, an actor, shared objects and a placement group.

What it prints depends on nothing but the program: `inline`, `local` and `ray` give the same text.

    python examples/harvest.py
    SKATE_ENGINE=inline python examples/harvest.py
    SKATE_ENGINE=ray python examples/harvest.py      # needs the extra skate-ray[ray]
"""

from __future__ import annotations

import skate as ray
from skate.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from skate.util.scheduling_strategies import PlacementGroupSchedulingStrategy

FIELDS = ("north", "east", "south", "west")
WEEKS = 6


@ray.remote(num_cpus=1)
def rain(field: str) -> list[int]:
    """The millimetres of rain of each week: like weather, but the same for everyone."""
    seed = sum(field.encode())
    return [(seed * (week + 3) ** 2) % 23 for week in range(WEEKS)]


@ray.remote(num_cpus=1)
def grow(field: str, fallen: list[int], soil: dict[str, float]) -> tuple[str, int]:
    """The tons that a field gives; `soil` is one object that all of these tasks read."""
    if field == "west" and max(fallen) > 20:
        raise ValueError(f"{field} is flooded: {max(fallen)} mm in a week")
    return field, round(sum(min(week, 15) for week in fallen) * soil[field])


@ray.remote(num_cpus=1)
class Barn:
    """Keeps what comes in, in the order in which it comes."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.kept: dict[str, int] = {}

    def bring(self, load: tuple[str, int]) -> int:
        """Take a field's harvest, as far as there is room; the tons that are left over."""
        field, tons = load
        taken = min(tons, self.room - sum(self.kept.values()))
        self.kept[field] = taken
        return tons - taken

    def books(self) -> dict[str, int]:
        """What lies there."""
        return self.kept


def harvest(group: PlacementGroup) -> list[str]:
    """The year's report, a line for each finding."""

    def inside(bundle: int) -> PlacementGroupSchedulingStrategy:
        return PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=bundle)

    soil = ray.put({field: 0.5 + number / 4 for number, field in enumerate(FIELDS)})
    barn = Barn.options(name="barn", scheduling_strategy=inside(0)).remote(130)
    work = grow.options(scheduling_strategy=inside(1))
    loads = {
        field: work.remote(field, rain.options(scheduling_strategy=inside(1)).remote(field), soil) for field in FIELDS
    }
    report = []
    for field, load in loads.items():
        try:
            left = ray.get(barn.bring.remote(load))  # the load goes to the barn, and never through here
        except ray.exceptions.RayTaskError as error:
            report.append(f"{field:>6}: lost: {error.cause}")
        else:
            report.append(f"{field:>6}: {ray.get(load)[1]} tons" + (f", {left} of them without a roof" if left else ""))
    books = ray.get(ray.get_actor("barn").books.remote())
    report.append(f"  barn: {sum(books.values())} tons from {', '.join(books)}")
    states = [entry["state"] for entry in ray.util.placement_group_table().values() if entry["name"] == "farm"]
    report.append(f" group: {group.bundle_count} bundles, {states[0].lower()}")
    return report


def main() -> None:
    with ray.init(num_cpus=2):
        group = placement_group([{"CPU": 1}, {"CPU": 1}], strategy="PACK", name="farm")
        assert group.wait(30)
        report = harvest(group)
        remove_placement_group(group)
    print("\n".join(report))
    assert report[-1].endswith("2 bundles, created")
    print("harvest: the same on every engine")


if __name__ == "__main__":
    main()
