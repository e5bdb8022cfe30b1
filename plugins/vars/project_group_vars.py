"""Makes the root's group_vars count for the plays of playbooks/, at the precedence of playbook group_vars.

Ansible looks beside the play that runs: for site.yml that is the root, but for what it imports it is playbooks/.
"""

from pathlib import Path
from typing import Any

from ansible.plugins.vars.host_group_vars import VarsModule as HostGroupVars

DOCUMENTATION = """
name: project_group_vars
short_description: The root's group_vars for the plays of playbooks/
version_added: "0.1.0"
description:
  - Loads C(group_vars) and C(host_vars) of the folder above, when the play that runs stands in C(playbooks/).
extends_documentation_fragment: [vars_plugin_staging]
options: {}
"""


class VarsModule(HostGroupVars):  # type: ignore[misc] # Ansible carries no types
    REQUIRES_ENABLED = True

    def get_vars(self, loader: Any, path: str, entities: Any, cache: bool = True) -> dict[str, Any]:
        folder = Path(path)
        if folder.name != "playbooks":
            return {}
        return dict(super().get_vars(loader, str(folder.parent), entities, cache))
