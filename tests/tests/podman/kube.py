"""Of the manifest given, what Podman can play: the agent's container, as a Pod in the user's own network instead of the node's. Podman
before 5 knows no DaemonSet, and the loader is root's."""

import json
import sys

import yaml

manifest = list(yaml.safe_load_all(open(sys.argv[1])))
kinds = {document["kind"]: document for document in manifest}
template = kinds["DaemonSet"]["spec"]["template"]
spec = template["spec"]
del spec["hostNetwork"], spec["dnsPolicy"]
spec["containers"] = [container for container in spec["containers"] if container["name"] == "agent"]
agent = spec["containers"][0]
# What cert-manager would write; and the probes ask the node's network, which is not the pod's here.
for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
    del agent[probe]
for port in agent["ports"]:
    del port["hostPort"]
used = {mount["name"] for mount in agent["volumeMounts"]}
spec["volumes"] = [volume for volume in spec["volumes"] if volume["name"] in used]
for volume in spec["volumes"]:
    if "secret" in volume:
        del volume["secret"]
        volume["hostPath"] = {"path": sys.argv[2], "type": "Directory"}
pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "kube", **template["metadata"]}, "spec": spec}
print(json.dumps(kinds["ConfigMap"]))
print("---")
print(json.dumps(pod))
