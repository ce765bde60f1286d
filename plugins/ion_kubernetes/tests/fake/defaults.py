"""What the API server adds to a pod that is made: the defaults that one sees when one reads it back."""

from __future__ import annotations

import copy
from typing import Any

Json = dict[str, Any]
_POD = {
    "dnsPolicy": "ClusterFirst",
    "enableServiceLinks": True,
    "preemptionPolicy": "PreemptLowerPriority",
    "priority": 0,
}
_POD |= {"restartPolicy": "Always", "schedulerName": "default-scheduler", "securityContext": {}}
_POD |= {"serviceAccount": "default", "serviceAccountName": "default", "terminationGracePeriodSeconds": 30}
_CONTAINER = {"resources": {}, "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}


def completed(pod: Json) -> Json:
    made = copy.deepcopy(pod)
    spec = made["spec"] = {**copy.deepcopy(_POD), **made["spec"]}
    for key in ("containers", "initContainers"):
        if key in spec:
            spec[key] = [_container(it) for it in spec[key]]
    made["status"] = {"phase": "Pending", "qosClass": "Burstable"}
    if spec.get("schedulingGates"):
        waiting = "Scheduling is blocked due to non-empty scheduling gates"
        gated = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": waiting}
        made["status"]["conditions"] = [gated]
    return made


def _container(container: Json) -> Json:
    made = {**copy.deepcopy(_CONTAINER), **container}
    tag = made["image"].rpartition("/")[2].partition(":")[2]
    made.setdefault("imagePullPolicy", "Always" if tag in ("", "latest") else "IfNotPresent")
    if limits := made["resources"].get("limits"):
        requests = {**limits, **made["resources"].get("requests", {})}
        made["resources"] = {**made["resources"], "requests": requests}
    return made
