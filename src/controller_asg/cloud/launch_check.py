"""What EC2 would refuse of a group's launch parameters, found before anything is launched and all in one report.

A dry run of RunInstances is EC2's own word, but it tells the first thing wrong only, and it does not look at
everything. So each thing that is named is looked up first; the dry run then goes without what was already found wrong.
"""

import re
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from controller_asg.cloud.calls import Ec2Calls
from controller_asg.cloud.errors import missing_permission
from controller_asg.cloud.launch_call import OUR_TAGS, run_instances_parameters
from controller_asg.cloud.subnets import Subnet, find_subnets
from controller_asg.model.document import place
from controller_asg.model.errors import CapacityError, CloudError, Fault, QuotaError, RejectedError
from controller_asg.model.group import Group
from controller_asg.model.launch import launch_request

if TYPE_CHECKING:
    from types_boto3_ec2.type_defs import FilterTypeDef, ImageTypeDef, InstanceTypeInfoTypeDef

Found = TypeVar("Found")

# The key of the document that an error of the dry run is about: by EC2's code, then by words of its message.
_KEY_BY_CODE = (
    ("InvalidAMIID", "image"),
    ("InvalidInstanceType", "instance_type"),
    ("InvalidSubnet", "subnets"),
    ("InvalidGroup", "security_groups"),
    ("InvalidSecurityGroup", "security_groups"),
    ("InvalidKeyPair", "key_pair"),
    ("InvalidBlockDevice", "disks"),
    ("InvalidSnapshot", "disks"),
    ("InvalidUserData", "user_data"),
    ("InvalidIamInstanceProfile", "instance_profile"),
    ("NoSuchEntity", "instance_profile"),
    ("VPC", "subnets"),
)
_KEY_BY_WORD = (
    ("instanceprofile", "instance_profile"),
    ("instance profile", "instance_profile"),
    ("iam:passrole", "instance_profile"),
    ("volume", "disks"),
    ("iops", "disks"),
    ("throughput", "disks"),
    ("device", "disks"),
    ("user data", "user_data"),
    ("zone", "zones"),
    ("subnet", "subnets"),
    ("security group", "security_groups"),
    ("key pair", "key_pair"),
    ("spot", "spot"),
    ("tag", "tags"),
    ("instance type", "instance_type"),
)
# Keys that instance metadata can serve (EC2 User Guide, "View tags for your EC2 instances using instance metadata").
_METADATA_TAG = re.compile(r"[a-zA-Z0-9+\-=.,_:@]+")
_TAG_NAMES_REFUSED = (".", "..", "_index")


async def check_launch(
    calls: Ec2Calls, controller_name: str, group: Group, image_id: str
) -> tuple[Fault, ...]:
    """Every fault, in the document's order. `image_id` empty: the image is known to be wrong; the rest is checked.

    What passes (no capacity, a quota reached) is no fault. Raises CloudError when EC2 can't be asked.
    """
    check = _Check(calls, controller_name, group)
    image = await check.image(image_id) if image_id else None
    instance_type = await check.instance_type(image)
    subnets = await check.subnets()
    await check.security_groups(subnets)
    await check.key_pair()
    check.disks(image)
    check.tags()
    if image is not None and instance_type is not None and not check.has_fault("subnets", "zones"):
        await check.dry_run(image_id, subnets)
    return tuple(check.faults)


@dataclass(slots=True)
class _Check:
    calls: Ec2Calls
    controller_name: str
    group: Group
    faults: list[Fault] = field(default_factory=list)

    async def image(self, image_id: str) -> "ImageTypeDef | None":
        # By ids, not by a filter: a filter leaves out what its owner has deprecated, which still launches.
        asked = self.calls.read(
            "DescribeImages", self._where(), lambda ec2: ec2.describe_images(ImageIds=[image_id])
        )
        try:
            answer = await self._permitted(asked)
            found = answer["Images"] if answer is not None else None
        except RejectedError:
            found = []
        if found is None:
            return None
        if not found:
            self._fault("image", f"EC2 knows no image {image_id}", "name one that this account may use")
            return None
        image = found[0]
        state = image.get("State", "available")
        if state != "available":
            self._fault("image", f"{image_id} is {state}", "wait until it is available, or name another one")
            return None
        return image

    async def instance_type(self, image: "ImageTypeDef | None") -> "InstanceTypeInfoTypeDef | None":
        """The first type; each of them is checked."""
        names = self.group.launch.types
        filters: list[FilterTypeDef] = [{"Name": "instance-type", "Values": list(names)}]
        answer = await self._permitted(
            self.calls.read(
                "DescribeInstanceTypes",
                self._where(),
                lambda ec2: ec2.describe_instance_types(Filters=filters),
            ),
            "instance_type",
        )
        if answer is None:
            return None
        by_name = {str(found.get("InstanceType", "")): found for found in answer["InstanceTypes"]}
        wanted = image.get("Architecture") if image is not None else None
        for index, name in enumerate(names):
            key = f"instance_types[{index - 1}]" if index else "instance_type"
            if name not in by_name:
                self._fault(key, f"this region has no {name}", "name one of its types, as t3.micro")
                continue
            runs = by_name[name].get("ProcessorInfo", {}).get("SupportedArchitectures", [])
            if wanted and runs and wanted not in runs:
                what = f"{name} runs {', '.join(runs)}, and the image is built for {wanted}"
                self._fault(key, what, "name a type, or an image, of the other's architecture")
        return None if self.has_fault("instance_type") else by_name[names[0]]

    async def subnets(self) -> tuple[Subnet, ...]:
        launch = self.group.launch
        found = await self._permitted(find_subnets(self.calls, launch, self._where()), "subnets")
        if found is None:
            return ()
        if launch.zones:
            for zone in launch.zones:
                if zone not in {subnet.zone for subnet in found}:
                    kind = "of these subnets" if launch.subnets else "default subnet"
                    self._fault("zones", f"{zone} holds no {kind}", "leave it out, or name a subnet in it")
        elif launch.subnets:
            known = {subnet.subnet_id for subnet in found}
            for index, subnet_id in enumerate(launch.subnets):
                if subnet_id not in known:
                    self._fault(
                        f"subnets[{index}]", f"EC2 knows no subnet {subnet_id}", "name one of this region"
                    )
        elif not found:
            self._fault("subnets", "none is named, and there is no default subnet", "name subnets")
        networks = sorted({subnet.vpc_id for subnet in found})
        if len(networks) > 1:
            what = f"these subnets lie in several VPCs: {', '.join(networks)}"
            self._fault("subnets", what, "name subnets of one VPC")
        return found

    async def security_groups(self, subnets: tuple[Subnet, ...]) -> None:
        wanted = self.group.launch.security_groups
        if not wanted:
            return
        filters: list[FilterTypeDef] = [{"Name": "group-id", "Values": list(wanted)}]
        answer = await self._permitted(
            self.calls.read(
                "DescribeSecurityGroups",
                self._where(),
                lambda ec2: ec2.describe_security_groups(Filters=filters),
            ),
            "security_groups",
        )
        if answer is None:
            return
        network_of = {found["GroupId"]: found.get("VpcId", "") for found in answer["SecurityGroups"]}
        for index, group_id in enumerate(wanted):
            key = f"security_groups[{index}]"
            if group_id not in network_of:
                self._fault(key, f"EC2 knows no security group {group_id}", "name one of this region")
                continue
            others = [subnet for subnet in subnets if subnet.vpc_id != network_of[group_id]]
            if others:
                what = f"{group_id} is of {network_of[group_id]}, and {others[0].subnet_id} of {others[0].vpc_id}"
                self._fault(key, what, "name security groups and subnets of one VPC")

    async def key_pair(self) -> None:
        name = self.group.launch.key_pair
        if name is None:
            if self.group.bootstrap == "role":
                what = "is missing, and bootstrap is role"
                self._fault("key_pair", what, "name the key pair that the controller logs in with")
            return
        filters: list[FilterTypeDef] = [{"Name": "key-name", "Values": [name]}]
        answer = await self._permitted(
            self.calls.read(
                "DescribeKeyPairs", self._where(), lambda ec2: ec2.describe_key_pairs(Filters=filters)
            ),
            "key_pair",
        )
        if answer is not None and not answer["KeyPairs"]:
            self._fault("key_pair", f"EC2 knows no key pair {name}", "import it, or name another one")

    def disks(self, image: "ImageTypeDef | None") -> None:
        if image is None:
            return
        needed = {
            mapping["DeviceName"]: mapping["Ebs"].get("VolumeSize", 0)
            for mapping in image.get("BlockDeviceMappings", [])
            if "Ebs" in mapping and "DeviceName" in mapping
        }
        for index, disk in enumerate(self.group.launch.disks):
            smallest = needed.get(disk.device, 0)
            if disk.size_gib < smallest:
                what = f"{disk.size_gib} is below the {smallest} GiB of the image's snapshot"
                self._fault(f"disks[{index}].size_gib", what, f"write {smallest} or more")

    def tags(self) -> None:
        for key in self.group.launch.tags:
            if key in OUR_TAGS:
                self._fault(f"tags[{key}]", "the controller writes this tag itself", "choose another name")
            elif not _METADATA_TAG.fullmatch(key) or key in _TAG_NAMES_REFUSED:
                what = "instance metadata, which serves the tags to the agent, refuses this name"
                self._fault(f"tags[{key}]", what, "use letters, digits and + - = . , _ : @ only")

    async def dry_run(self, image_id: str, subnets: tuple[Subnet, ...]) -> None:
        # What is known to be wrong is left out, so that the dry run may find what else is.
        request = launch_request(
            self.group,
            image_id,
            "dry-run",
            "dry-run",
            1,
            subnets[0].subnet_id if subnets else "",
            user_data=self.group.launch.user_data,
        )
        request = replace(
            request,
            security_groups=() if self.has_fault("security_groups") else request.security_groups,
            key_pair="" if self.has_fault("key_pair") else request.key_pair,
            disks=() if self.has_fault("disks") else request.disks,
            tags=() if self.has_fault("tags") else request.tags,
        )
        call = run_instances_parameters(self.controller_name, request)
        del call["ClientToken"]
        call["DryRun"] = True
        try:
            await self._permitted(
                self.calls.dry_run("RunInstances", self._where(), lambda ec2: ec2.run_instances(**call))
            )
        except (CapacityError, QuotaError):
            return  # passes by itself, and is the launch's matter
        except RejectedError as error:
            self._fault(_key_of(error), error.what, error.mend)

    async def _permitted(self, asked: Awaitable[Found], key: str = "") -> Found | None:
        """The answer; None, and a fault, when the controller may not ask or EC2 says that there is no such thing."""
        try:
            return await asked
        except CloudError as error:
            permission = missing_permission(error)
            if permission:
                where = "instance_profile" if permission.startswith("iam:PassRole") else ""
                what = f"the controller has no permission {permission}"
                self._fault(where, what, "add it to the controller's IAM policy")
                return None
            if key and isinstance(error, RejectedError):
                self._fault(key, error.what, error.mend)
                return None
            raise

    def has_fault(self, *keys: str) -> bool:
        wanted = tuple(self._where(key) for key in keys)
        return any(re.split(r"\[", fault.where)[0] in wanted for fault in self.faults)

    def _fault(self, key: str, what: str, mend: str) -> None:
        self.faults.append(Fault(self._where(key), what, mend))

    def _where(self, key: str = "") -> str:
        return place(self.group.name, f"launch.{key}" if key else "launch")


def _key_of(error: CloudError) -> str:
    for start, key in _KEY_BY_CODE:
        if error.code.startswith(start):
            return key
    text = error.what.lower()
    return next((key for word, key in _KEY_BY_WORD if word in text), "")
