"""The workflows in the real editor, in Chromium: opened, compared with `workflows/api`, run, and photographed.

Chromium: `$CHROMIUM_PATH`, else /usr/bin/chromium or the `chromium` on the path. playwright-core: the folder
`$PLAYWRIGHT_CORE`, else ~/pw/node_modules/playwright-core. Pictures stay under out/browser, to be looked at.
"""

import json
import os
import re
import shutil
import subprocess
from itertools import combinations, product
from pathlib import Path

import pytest
from PIL import Image

PACK = "ComfyUI-SSI"  # without a space: with one, aiohttp 3.14 finds none of a pack's files
OPTIONS = ["--preview-method", "auto"]  # what many run ComfyUI with; nodes grow by the picture they then show
ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / "workflows").glob("*.json"))
DEMO = {path.stem for path in WORKFLOWS if path.stem.startswith("demo_")}
GROWS = ("SSIInverseSampler", "SamplerCustomAdvanced")
"""Nodes that show a picture of how far they are."""
NODES_2 = "demo_morph in Nodes 2.0"
NAMED = "const named = (...t) => app.graph._nodes.filter((n) => t.includes(n.title));"
CHANGES = {
    "bypassed": "for (const n of named('Inspector', 'Metrics')) n.mode = 4",
    "muted": "for (const n of named('Inspector', 'Is it Gaussian?', 'Metrics', 'How near is it?')) n.mode = 2",
    "steps from a node": """
        const [invert] = named('Invert'), number = LiteGraph.createNode('PrimitiveInt')
        app.graph.add(number)
        number.widgets[0].value = 9
        number.connect(0, invert, invert.inputs.findIndex((i) => i.name === 'steps'))""",
    "in a subgraph": """app.graph.convertToSubgraph(new Set(
        named('To latent', 'Invert', 'No class', 'Guider', 'Solver', 'Sample', 'To image')))""",
}
"""What people do to a workflow, here to demo_reconstruct."""
SHOWS = {
    "SSIGaussianityInspector": (300, 150), "SSIReconstructionMetrics": (256, 256), "SSISingularityCurve": (700, 500),
    "SSIAutoSkip": (700, 500), "PreviewImage": (256, 256), "SaveImage": (256, 256), "SaveAnimatedWEBP": (256, 256),
}  # fmt: skip
"""Least width and height of what a node must show after the run."""
# What the editor asks of every server, and finds on none that is new; none of it is about a pack.
USUAL = re.compile(r"404 GET (/user\.css|/api/userdata|/extensions/core/|/api/settings/|/api/users)")


def chromium() -> str | None:
    given = os.environ.get("CHROMIUM_PATH")
    tried = [given] if given else ["/usr/bin/chromium", shutil.which("chromium") or ""]
    return next((path for path in tried if path and Path(path).exists()), None)


def playwright() -> Path | None:
    path = Path(os.environ.get("PLAYWRIGHT_CORE") or "~/pw/node_modules/playwright-core").expanduser()
    return path if (path / "package.json").exists() else None


@pytest.fixture(scope="module")
def pictures(host) -> Path:
    version = re.search(r'"([\d.]+)"', (host.root / "comfyui_version.py").read_text()).group(1)
    folder = ROOT / "out" / "browser" / version
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def seen(request, base_directory, pictures):
    """What the editor says of each workflow, after opening it, and of the demo ones after Run."""
    browser, library = chromium(), playwright()
    if not (browser and library and shutil.which("node")):
        pytest.skip("NO CHROMIUM, NODE OR PLAYWRIGHT-CORE, editor tests not run: set CHROMIUM_PATH and PLAYWRIGHT_CORE")
    (base_directory / "input").mkdir(exist_ok=True)
    Image.linear_gradient("L").convert("RGB").save(base_directory / "input" / "example.png")
    server = request.getfixturevalue("server")  # after the skip: it takes long to start
    jobs = {
        path.stem: {"file": str(path), "picture": str(pictures / f"{path.stem}.png"),
                    "run": 120 if path.stem in DEMO else 0, "after": str(pictures / f"{path.stem}-run.png")}
        for path in WORKFLOWS
    }  # fmt: skip
    for name, change in CHANGES.items():
        kept = {"picture": None, "after": str(pictures / f"{name.replace(' ', '-')}.png")}
        jobs[name] = jobs["demo_reconstruct"] | kept | {"change": f"{{ {NAMED} {change} }}"}
    jobs["templates"] = {"templates": PACK, "picture": str(pictures / "templates.png")}
    # Last, for it stays: the editor that draws its nodes in HTML, where they are taller.
    jobs[NODES_2] = jobs["demo_morph"] | {
        "settings": {"Comfy.VueNodes.Enabled": True},
        "picture": str(pictures / "nodes-2.png"),
        "after": str(pictures / "nodes-2-run.png"),
    }
    done = subprocess.run(
        ["node", str(Path(__file__).parent / "browser" / "editor.mjs"), browser, str(library), server.url],
        input=json.dumps(list(jobs.values())),
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    return dict(zip(jobs, json.loads(done.stdout), strict=True))


def without_previews(prompt):
    """Older editors also send what Preview Any shows; the node does not take it."""
    for entry in prompt.values():
        if entry["class_type"] == "PreviewAny":
            entry["inputs"] = {"source": entry["inputs"]["source"]}
    return prompt


def assert_laid_out(nodes, groups):
    """No node covers another, and each is wholly in one group or in none."""
    for a, b in combinations(nodes, 2):
        assert apart(a["box"], b["box"]), (a, b)
    for a, b in combinations(groups, 2):
        assert apart(a["box"], b["box"]), (a, b)
    for node, group in product(nodes, groups):
        assert apart(node["box"], group["box"]) or within(node["box"], group["box"]), (node, group)


def apart(a, b):
    (left, top, width, height), (left2, top2, width2, height2) = a, b
    beside = left + width <= left2 or left2 + width2 <= left
    return beside or top + height <= top2 or top2 + height2 <= top


def within(a, b):
    (left, top, width, height), (left2, top2, width2, height2) = a, b
    return left2 <= left and top2 <= top and left + width <= left2 + width2 and top + height <= top2 + height2


def heights(nodes):
    return {node["id"]: node["box"][3] for node in nodes}


every = pytest.mark.parametrize("name", [path.stem for path in WORKFLOWS])


@every
def test_it_opens_and_is_the_graph_of_the_queue(seen, name):
    answer = seen[name]
    assert answer["missing"] == []
    assert without_previews(answer["prompt"]) == json.loads((ROOT / "workflows" / "api" / f"{name}.json").read_text())
    assert any(node["type"] in ("MarkdownNote", "Note") for node in answer["nodes"])


@every
def test_nothing_goes_wrong_in_the_page(seen, name):
    answer = seen[name]
    assert answer["errors"] == []
    assert [said for said in answer["refused"] if not USUAL.match(said)] == []


@every
def test_no_node_covers_another_or_cuts_its_widgets(seen, name):
    nodes = seen[name]["nodes"]
    assert_laid_out(nodes, seen[name]["groups"])
    for node in nodes:
        assert node["size"][0] >= node["least"][0] - 1 and node["size"][1] >= node["least"][1] - 1, node


@pytest.mark.parametrize("name", sorted(DEMO))
def test_run_shows_pictures_and_words(seen, name):
    answer = seen[name]
    assert answer["run"]["word"] == "done", answer["run"]
    shown = answer["run"]["shown"]
    for node in answer["nodes"]:
        if node["type"] in SHOWS:
            found = shown[node["title"]]["pictures"]
            assert found, node
            assert all(w >= SHOWS[node["type"]][0] and h >= SHOWS[node["type"]][1] for w, h in found), (node, found)
        if node["type"] == "PreviewAny":
            assert any(len(text) > 20 for text in shown[node["title"]]["texts"]), (node, shown[node["title"]])


@pytest.mark.parametrize("name", [*sorted(DEMO), NODES_2])
def test_no_node_covers_another_after_run_with_previews(seen, name):
    answer = seen[name]
    assert answer["run"]["word"] == "done", answer["run"]
    before, after = heights(answer["nodes"]), heights(answer["run"]["nodes"])
    kinds = {node["id"]: node["type"] for node in answer["nodes"]}
    grew = {kinds[node] for node in after if after[node] > before[node] + 100}
    assert grew == set(GROWS) & set(kinds.values()) != set(), "no previews came: what follows would show nothing"
    assert_laid_out(answer["run"]["nodes"], answer["groups"])


@pytest.mark.parametrize("name", [path.stem for path in WORKFLOWS if path.stem not in DEMO])
def test_those_that_cannot_run_here_leave_the_same_room(seen, name):
    ran = [node for other in [*DEMO, NODES_2] for node in seen[other]["run"]["nodes"]]
    tallest = {kind: max(node["box"][3] for node in ran if node["type"] == kind) for kind in GROWS}
    nodes = seen[name]["nodes"]
    for node in nodes:
        node["box"][3] = max(node["box"][3], tallest.get(node["type"], 0))
    assert {node["type"] for node in nodes} >= set(GROWS)
    assert_laid_out(nodes, seen[name]["groups"])


@pytest.mark.parametrize("name", CHANGES)
def test_what_people_do_to_a_workflow(seen, name):
    answer = seen[name]
    assert answer["run"]["word"] == "done", answer["run"]
    assert answer["errors"] == []
    kinds = [entry["class_type"] for entry in answer["prompt"].values()]
    inspected = name not in ("bypassed", "muted")
    assert ("SSIGaussianityInspector" in kinds, "SSIReconstructionMetrics" in kinds) == (inspected, inspected)
    (invert,) = [entry for entry in answer["prompt"].values() if entry["class_type"] == "SSIInverseSampler"]
    assert isinstance(invert["inputs"]["steps"], list) == (name == "steps from a node")
    assert any(":" in node for node in answer["prompt"]) == (name == "in a subgraph")
    shown = answer["run"]["shown"]
    for title in ["Original", "Reconstruction", *(["Inspector", "Metrics"] if inspected else [])]:
        assert shown[title]["pictures"], title


def test_browse_templates_shows_every_workflow_with_its_picture(seen):
    shown = seen["templates"]
    # Newer editors write the names with spaces, and name no file: their pictures are blobs.
    words = shown["text"].replace(" ", "_")
    assert [path.stem for path in WORKFLOWS if path.stem not in words] == []
    # Those further down are fetched when one scrolls there.
    assert len([width for _, width in shown["images"] if width >= 400]) >= 8, shown["images"]
