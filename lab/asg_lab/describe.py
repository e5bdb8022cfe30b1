"""The Describe calls as EC2 answers them: filters, pages by instances, status checks, and lag on demand."""

import base64
import copy
import fnmatch
from typing import Any

from moto.core.responses import ActionResult
from moto.ec2 import utils
from moto.ec2.exceptions import EC2ClientError, InvalidParameterCombination
from moto.ec2.models.instances import Instance, InstanceBackend
from moto.ec2.responses.instances import InstanceResponse

from asg_lab.pool import Check, State
from asg_lab.world import World

# moto fails with HTTP 500 on these, which boto3 retries; `client-token` is what a controller asks for after a crash.
MORE_FILTERS = {
    "client-token": "client_token",
    "reservation-id": "reservation_id",
    "instance-lifecycle": "lifecycle",
    "iam-instance-profile.arn": "iam_instance_profile.Arn",
    "instance-state-code": "state_code",
    "root-device-name": "root_device_name",
    "network-interface.addresses.private-ip-address": "private_ip",
}
PAGE_MIN, PAGE_MAX = 5, 1000  # EC2 API Reference, DescribeInstances, MaxResults


def install(world: World) -> None:
    """Wrap moto's Describe calls of instances."""
    utils.filter_dict_attribute_mapping.update(MORE_FILTERS)
    moto_passes = utils.passes_filter_dict

    def passes(instance: Any, filters: dict[str, Any]) -> bool:
        for name, values in filters.items():
            attribute = utils.filter_dict_attribute_mapping.get(name)
            if attribute is None:
                if not utils.is_tag_filter(name):
                    raise EC2ClientError("InvalidParameterValue", f"The filter '{name}' is invalid")
                if not moto_passes(instance, {name: values}):
                    return False
            elif not _matches(utils.get_object_value(instance, attribute), values):
                return False
        return True

    utils.passes_filter_dict = passes
    moto_all = InstanceBackend.all_reservations

    def all_reservations(backend: Any, filters: Any = None) -> Any:
        reservations = moto_all(backend)
        return utils.filter_reservations(reservations, filters) if filters else reservations

    def seen_reservations(backend: Any) -> Any:
        lag = world.faults.lag_seconds()
        lagging = world.history.view(lag) if lag else None
        return moto_all(backend) if lagging is None else lagging

    def describe_instances(response: Any) -> Any:
        response.error_on_dryrun()
        wanted = response._get_param("InstanceIds", [])
        limit = response._get_param("MaxResults")
        if wanted and limit:
            raise InvalidParameterCombination(
                "The parameter instancesSet cannot be used with the parameter maxResults"
            )
        reservations = seen_reservations(response.ec2_backend)
        if wanted:
            reservations = _only(reservations, wanted)
        if filters := response._filters_from_querystring():
            reservations = utils.filter_reservations(reservations, filters)
        page, token = paged(reservations, int(limit or PAGE_MAX), response._get_param("NextToken"))
        return ActionResult({"Reservations": page, "NextToken": token})

    def describe_status(
        backend: Any, instance_ids: list[str], include_all_instances: bool, filters: list[dict[str, Any]]
    ) -> list[Any]:
        reservations = seen_reservations(backend)
        if instance_ids:
            reservations = _only(reservations, instance_ids)
        instances = [each for reservation in reservations for each in reservation.instances]
        if not include_all_instances:
            instances = [each for each in instances if each._state.name == State.RUNNING]
        return [each for each in instances if _status_passes(each, filters)]

    InstanceBackend.all_reservations = all_reservations
    InstanceBackend.describe_instance_status = describe_status
    InstanceResponse.describe_instances = describe_instances
    Instance.instance_status = property(lambda instance: _status(world, instance))
    Instance.system_status = property(_system_status)


def paged(reservations: list[Any], limit: int, token: str | None) -> tuple[list[Any], str | None]:
    """A page of at most `limit` instances and the next page's token; a reservation may be cut in two."""
    if not PAGE_MIN <= limit <= PAGE_MAX:
        raise EC2ClientError("InvalidParameterValue", f"MaxResults must be {PAGE_MIN} to {PAGE_MAX}")
    all_of_them = [(reservation, each) for reservation in reservations for each in reservation.instances]
    start = _offset(token)
    page: list[Any] = []
    last_id = None
    for reservation, instance in all_of_them[start : start + limit]:
        if reservation.id != last_id:
            shown = copy.copy(reservation)
            shown.instances = []
            page.append(shown)
            last_id = reservation.id
        page[-1].instances.append(instance)
    more = start + limit < len(all_of_them)
    return page, base64.urlsafe_b64encode(f"from {start + limit}".encode()).decode() if more else None


def _offset(token: str | None) -> int:
    if not token:
        return 0
    try:
        word, number = base64.urlsafe_b64decode(token).decode().split()
        assert word == "from"
        return int(number)
    except (ValueError, AssertionError) as error:
        raise EC2ClientError("InvalidParameterValue", "The NextToken is invalid") from error


def _only(reservations: list[Any], wanted: list[str]) -> list[Any]:
    """The named instances; EC2 fails when one of them is unknown."""
    found = {each.id for reservation in reservations for each in reservation.instances}
    if missing := [instance_id for instance_id in wanted if instance_id not in found]:
        from moto.ec2.exceptions import InvalidInstanceIdError

        raise InvalidInstanceIdError(missing)
    kept = []
    for reservation in reservations:
        shown = copy.copy(reservation)
        shown.instances = [each for each in reservation.instances if each.id in wanted]
        if shown.instances:
            kept.append(shown)
    return kept


def _matches(value: Any, patterns: list[str]) -> bool:
    """EC2's filters know * and ?, and a list matches by one of its elements."""
    texts = value if isinstance(value, list) else [value]
    shown = [str(text).lower() if isinstance(text, bool) else str(text) for text in texts if text is not None]
    return any(fnmatch.fnmatchcase(text, pattern) for text in shown for pattern in patterns)


def _status(world: World, instance: Any) -> dict[str, Any]:
    if instance._state.name != State.RUNNING:
        return {"Status": "not-applicable"}
    check = getattr(instance, "lab_check", None) or world.check_of(instance.id)
    passed = {Check.OK: "passed", Check.IMPAIRED: "failed", Check.INITIALIZING: "initializing"}[check]
    return {"Details": [{"Name": "reachability", "Status": passed}], "Status": check.value}


def _system_status(instance: Any) -> dict[str, Any]:
    """The host below an instance is always well here."""
    if instance._state.name != State.RUNNING:
        return {"Status": "not-applicable"}
    return {"Details": [{"Name": "reachability", "Status": "passed"}], "Status": "ok"}


def _status_passes(instance: Any, filters: list[dict[str, Any]]) -> bool:
    shown = {
        "availability-zone": instance.availability_zone,
        "instance-state-name": instance._state.name,
        "instance-state-code": instance._state.code,
        "instance-status.status": instance.instance_status["Status"],
        "instance-status.reachability": instance.instance_status.get("Details", [{}])[0].get("Status"),
        "system-status.status": instance.system_status["Status"],
        "system-status.reachability": instance.system_status.get("Details", [{}])[0].get("Status"),
    }
    for each in filters or []:
        if each["name"] not in shown:
            raise EC2ClientError("InvalidParameterValue", f"The filter '{each['name']}' is invalid")
        if not _matches(shown[each["name"]], each["values"]):
            return False
    return True
