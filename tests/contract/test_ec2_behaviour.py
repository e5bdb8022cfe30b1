"""What EC2 documents of the calls that the controller makes, held against the simulated EC2 and the lab.

Both are spoken to by boto3, so that neither drifts from the other. Sources: EC2 API reference (RunInstances,
TerminateInstances, DescribeInstances, "Error codes", "Request throttling") and its user guide ("Ensuring idempotency").
"""

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from asg_lab.testing import Lab, running_lab
from botocore.exceptions import ClientError, HTTPClientError

from controller_asg.simulate.ec2 import GOOD_IMAGE, TOKEN_SECONDS, ZONES, SimulatedEc2
from controller_asg.simulate.virtual_time import VirtualClock, VirtualLoop

NOBODY = "i-0fedcba9876543210"
TYPE = "t2.micro"
WAIT_SECONDS = 60.0


@dataclass
class Place:
    """One EC2: its client, an image, its faults by the lab's names, and how its time passes."""

    ec2: Any
    image_id: str
    subnets: tuple[tuple[str, str], ...]
    fault: Callable[..., object]
    sleep: Callable[[float], object]

    def launch(self, token: str = "", **more: Any) -> list[str]:
        """Ids of new instances, or those of an equal call before with the token."""
        call = {
            "ImageId": self.image_id,
            "InstanceType": TYPE,
            "MinCount": 1,
            "MaxCount": 1,
            "ClientToken": token or uuid.uuid4().hex,
            "TagSpecifications": [
                {"ResourceType": "instance", "Tags": [{"Key": "controller-asg:group", "Value": "web"}]}
            ],
        }
        return [i["InstanceId"] for i in self.ec2.run_instances(**(call | more))["Instances"]]

    def states(self, page: int = 1000, **tags: str) -> dict[str, str]:
        """Every instance's state by its id, read in pages."""
        filters = [{"Name": f"tag:{key}", "Values": [value]} for key, value in tags.items()]
        found: dict[str, str] = {}
        token: dict[str, str] = {}
        while True:
            answer = self.ec2.describe_instances(Filters=filters, MaxResults=page, **token)
            for reservation in answer["Reservations"]:
                found |= {i["InstanceId"]: i["State"]["Name"] for i in reservation["Instances"]}
            if not answer.get("NextToken"):
                return found
            token = {"NextToken": answer["NextToken"]}

    def wait(self, instance_id: str, *states: str) -> None:
        for _ in range(round(WAIT_SECONDS / 0.5)):
            if self.states().get(instance_id) in states:
                return
            self.sleep(0.5)
        raise AssertionError(f"{instance_id} is {self.states().get(instance_id)}, not {states}")


@pytest.fixture(scope="module")
def the_lab() -> Iterator[Lab]:
    with running_lab("behaviour") as lab:
        yield lab


def of_lab(request: pytest.FixtureRequest) -> Iterator[Place]:
    lab: Lab = request.getfixturevalue("the_lab")
    subnets = lab.ec2.describe_subnets()["Subnets"]
    places = tuple(sorted((s["SubnetId"], s["AvailabilityZone"]) for s in subnets))
    place = Place(lab.ec2, lab.info.ami_id, places, lab.fault, time.sleep)
    yield place
    lab.clear_faults()
    left = [i for i, state in place.states().items() if state != "terminated"]
    if left:
        lab.ec2.terminate_instances(InstanceIds=left)


def of_simulation(request: pytest.FixtureRequest) -> Iterator[Place]:
    loop = VirtualLoop()
    ec2 = SimulatedEc2(loop, VirtualClock(loop), random.Random(7), boot_seconds=2.0)

    def fault(kind: str, *arguments: str) -> None:
        match kind, *arguments:
            case "capacity", "--zone", zone, "--type", instance_type:
                ec2.faults.full.add((zone, instance_type))
            case "lost-answer", "RunInstances", "--count", "1":
                ec2.faults.lost_answers = 1
            case "throttle", "RunInstances", "--count", "1":
                ec2.faults.errors.append("RequestLimitExceeded")
            case "kill", instance_id:
                ec2.stop(instance_id)
            case "lag", seconds:
                ec2.faults.lag_seconds = float(seconds)
            case _:
                raise AssertionError(f"no such fault in the simulation: {kind} {arguments}")

    yield Place(
        ec2, GOOD_IMAGE, ZONES, fault, lambda seconds: loop.run_until_complete(asyncio.sleep(seconds))
    )
    loop.close()


@pytest.fixture(
    params=[
        pytest.param(of_simulation, id="simulated"),
        pytest.param(of_lab, id="lab", marks=pytest.mark.lab),
    ]
)
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    yield from request.param(request)


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(ClientError) as caught:
        call()
    return str(caught.value.response["Error"]["Code"])


def test_a_token_launches_once_and_means_its_first_parameters(place: Place) -> None:
    token = uuid.uuid4().hex
    first = place.launch(token, MaxCount=2)
    assert len(first) == 2
    assert place.launch(token, MaxCount=2) == first
    assert refused(lambda: place.launch(token, MaxCount=3)) == "IdempotentParameterMismatch"
    assert set(place.states(**{"controller-asg:group": "web"})) >= set(first)


def test_an_instance_tells_the_market_it_was_launched_on(place: Place) -> None:
    (spot,) = place.launch(InstanceMarketOptions={"MarketType": "spot"})
    (on_demand,) = place.launch()
    filters = [{"Name": "tag:controller-asg:group", "Values": ["web"]}]
    answer = place.ec2.describe_instances(Filters=filters)
    told = {
        i["InstanceId"]: i.get("InstanceLifecycle") for r in answer["Reservations"] for i in r["Instances"]
    }
    assert (told[spot], told[on_demand]) == ("spot", None)


def test_a_token_whose_instances_are_gone_launches_nothing_again(place: Place) -> None:
    token = uuid.uuid4().hex
    (instance_id,) = place.launch(token)
    place.wait(instance_id, "running")
    place.ec2.terminate_instances(InstanceIds=[instance_id])
    place.wait(instance_id, "terminated")
    assert refused(lambda: place.launch(token)) == "IdempotentInstanceTerminated"


@pytest.mark.parametrize("place", [of_simulation], indirect=True)  # nobody waits a day for the lab
def test_a_token_is_forgotten_a_day_after_its_last_instance_ended(place: Place) -> None:
    token = uuid.uuid4().hex
    gone, there = place.launch(token, MaxCount=2)
    place.wait(gone, "running")
    place.ec2.terminate_instances(InstanceIds=[gone])
    place.sleep(TOKEN_SECONDS + WAIT_SECONDS)
    assert there in place.launch(token, MaxCount=2)
    place.ec2.terminate_instances(InstanceIds=[there])
    place.wait(there, "terminated")
    place.sleep(TOKEN_SECONDS - WAIT_SECONDS)
    assert refused(lambda: place.launch(token, MaxCount=2)) == "IdempotentInstanceTerminated"
    place.sleep(WAIT_SECONDS)
    assert not {gone, there} & set(place.launch(token, MaxCount=2))


def test_a_dry_run_is_an_error_either_way(place: Place) -> None:
    before = set(place.states())
    assert refused(lambda: place.launch(DryRun=True)) == "DryRunOperation"
    unknown = "ami-0fedcba9876543210"
    assert refused(lambda: place.launch(ImageId=unknown)) == "InvalidAMIID.NotFound"
    assert refused(lambda: place.launch(ImageId=unknown, DryRun=True)) == "InvalidAMIID.NotFound"
    assert set(place.states()) == before


def test_an_instance_starts_pending_runs_and_ends_shown_as_terminated(place: Place) -> None:
    (instance_id,) = place.launch()
    assert place.states()[instance_id] in ("pending", "running")
    place.wait(instance_id, "running")
    place.ec2.terminate_instances(InstanceIds=[instance_id])
    assert place.states()[instance_id] in ("shutting-down", "terminated")
    place.wait(instance_id, "terminated")
    place.ec2.terminate_instances(InstanceIds=[instance_id])  # again is no error


def test_one_unknown_id_among_those_to_terminate_spares_them_all(place: Place) -> None:
    (instance_id,) = place.launch()
    call = lambda: place.ec2.terminate_instances(InstanceIds=[instance_id, NOBODY])  # noqa: E731
    assert refused(call) == "InvalidInstanceID.NotFound"
    assert place.states()[instance_id] in ("pending", "running")


def test_a_machine_that_stops_from_outside_is_shown_stopped(place: Place) -> None:
    (instance_id,) = place.launch()
    place.wait(instance_id, "running")
    place.fault("kill", instance_id)
    place.wait(instance_id, "stopping", "stopped")


def test_a_zone_without_the_type_says_so_and_another_launches(place: Place) -> None:
    (full, zone), (other, _) = place.subnets[:2]
    place.fault("capacity", "--zone", zone, "--type", TYPE)
    assert refused(lambda: place.launch(SubnetId=full)) == "InsufficientInstanceCapacity"
    assert len(place.launch(SubnetId=other)) == 1


def test_a_throttled_call_has_done_nothing(place: Place) -> None:
    before, token = set(place.states()), uuid.uuid4().hex
    place.fault("throttle", "RunInstances", "--count", "1")
    assert refused(lambda: place.launch(token)) == "RequestLimitExceeded"
    assert set(place.states()) == before
    assert len(place.launch(token)) == 1


def test_an_answer_lost_was_done_and_its_token_tells_it(place: Place) -> None:
    before, token = set(place.states()), uuid.uuid4().hex
    place.fault("lost-answer", "RunInstances", "--count", "1")
    with pytest.raises(HTTPClientError):
        place.launch(token)
    made = set(place.states()) - before
    assert len(made) == 1
    assert set(place.launch(token)) == made


def test_pages_together_hold_everybody_once(place: Place) -> None:
    made = [place.launch(MaxCount=4) for _ in range(2)]
    assert set(place.states(page=5)) >= {instance_id for ids in made for instance_id in ids}


def test_describe_may_lag_behind_and_catches_up(place: Place) -> None:
    place.fault("lag", "3")
    (instance_id,) = place.launch()
    place.wait(instance_id, "pending", "running")
