"""What the repository says about itself: help pages, translations, pictures, links, and the registry's metadata.

`tests/host/inside/test_docs.py` compares English and the help pages with the live schemas; here everything else is
compared with English, without a host.
"""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).parents[1]
HELP = REPOSITORY / "web" / "docs"
BIGGEST_PICTURE = 100_000
LANGUAGES = ["en", "zh"]
PROSE = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted(HELP.rglob("*.md")),
]
GROWN = re.compile(r"_\D+\d+$")  # noises_noise3: the editor's name for a socket of an input that grows


def _refresh():
    spec = importlib.util.spec_from_file_location("refresh", REPOSITORY / "locales" / "refresh.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


refresh = _refresh()


def node_ids():
    """The ids of all nodes, read from the source."""
    return sorted(
        keyword.value.value
        for path in (REPOSITORY / "nodes").rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        for keyword in call.keywords
        if keyword.arg == "node_id" and isinstance(keyword.value, ast.Constant)
    )


NODES = node_ids()


def named(page, heading):
    """What a help page lists under a heading."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.M | re.S)
    assert section, f"no section {heading}"
    return re.findall(r"^- \*\*`([^`]+)`\*\*", section[1], re.M)


def test_there_are_nodes():
    assert len(NODES) >= 15 and len(set(NODES)) == len(NODES)


def test_every_node_has_a_help_page_and_every_page_a_node():
    assert sorted(path.stem for path in HELP.glob("*.md")) == NODES


@pytest.mark.parametrize("node", NODES)
def test_a_help_page_names_everything(node):
    page, english = (HELP / f"{node}.md").read_text(), refresh.load("en")[node]
    assert page.startswith(f"# {english['display_name']}\n")
    assert sorted(named(page, "Inputs")) == sorted(name for name in english["inputs"] if not GROWN.search(name))
    assert named(page, "Outputs") == [output["name"] for output in english.get("outputs", {}).values()]
    assert re.search(r"^## Typical mistakes\n\n(- .+\n){2,}", page, re.M), "no typical mistakes"
    assert re.search(r"^## When to use it\n\n\w", page, re.M)
    related = page.partition("## Related\n")[2]
    others = [refresh.load("en")[other]["display_name"] for other in NODES if other != node]
    assert any(other in related for other in others), "related nodes"
    assert re.search(r"^!\[.+\]\(images/", page, re.M), "no picture"


def said_by_the_code():
    """Every text in the source, with "\\0" for what is filled in."""
    for folder in ("nodes", "ssi_core"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.JoinedStr):
                    yield "".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values)
                elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                    yield node.value


def is_said(message, sources):
    """Whether the code says this, or says something that begins with it (where it ends in ...)."""
    head = message.removesuffix(" ...")
    for source in sources:
        first = source.partition("\0")[0]
        if not (head.startswith(first) or first.startswith(head)):
            continue
        for end in [m.start() for m in re.finditer(r" |$", source)] if head != message else [len(source)]:
            start = source[:end].rstrip(";,.:(")
            # Mostly its own words, not mostly what is filled in.
            if len(start.replace("\0", "")) >= 8 and re.fullmatch(".+?".join(map(re.escape, start.split("\0"))), head):
                return True
    return False


def test_messages_in_help_pages_are_what_the_code_says():
    sources = sorted({text for text in said_by_the_code() if " " in text})
    quoted = [
        (node, message)
        for node in NODES
        for message in re.findall(r"^- `(.+?)`: ", (HELP / f"{node}.md").read_text().partition("## Typical")[2], re.M)
    ]
    assert len(quoted) > 2 * len(NODES)
    assert [pair for pair in quoted if not is_said(pair[1], sources)] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_cover_exactly_the_nodes(language):
    assert sorted(refresh.load(language)) == NODES
    english = dict(refresh.paths(refresh.load("en")))
    assert dict(refresh.paths(refresh.load(language))).keys() == english.keys()
    categories = refresh.load("en", "main")["nodeCategories"]
    assert refresh.load(language, "main")["nodeCategories"].keys() == categories.keys()


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_are_texts_that_the_editor_can_read(language):
    for at, text in refresh.paths(refresh.load(language)):
        assert isinstance(text, str) and text.strip() == text != "", at
        assert not set(text) & set(refresh.UNSAFE), f"{at}: {text}"


def test_chinese_is_chinese_and_keeps_the_figures():
    english = dict(refresh.paths(refresh.load("en")))
    for at, text in refresh.paths(refresh.load("zh")):
        if at.rpartition(".")[2] in ("description", "tooltip"):
            assert re.search(r"[\u4e00-\u9fff]", text), at
        figures = re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\d)", english[at])
        assert [n for n in figures if n not in text] == [], f"{at}: {text}"


def test_categories_are_translated():
    said = {
        part
        for path in (REPOSITORY / "nodes").glob("*.py")
        for category in re.findall(r'^CATEGORY = "(.+)"', path.read_text(), re.M)
        for part in category.split("/")
    }
    assert said == refresh.load("en", "main")["nodeCategories"].keys()


def links(text):
    """(what, address) of the links and pictures in a Markdown text, code left out."""
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.S)
    return re.findall(r"\[([^\]]*)\]\(([^)\s]+)\)", text)


def anchors(path):
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", path.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PROSE, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_local_links_lead_somewhere(page):
    for what, address in links(page.read_text()):
        if re.match(r"\w+://", address):
            continue
        path, _, anchor = address.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists() and target.is_relative_to(REPOSITORY), f"{what}: {address}"
        if anchor:
            assert anchor in anchors(target), f"{what}: {address}"


@pytest.mark.parametrize("page", PROSE, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_files_that_are_named_exist(page):
    # A folder's or a module's path; patterns and placeholders are none.
    folders = "ssi_core|nodes|tests|docs|web|locales|benchmarks|workflows"
    for name in re.findall(rf"`((?:{folders})/[\w./-]*)`", page.read_text()):
        assert (REPOSITORY / name).exists(), name
    assert "../shared" not in page.read_text()


def test_pictures_are_small_and_all_are_used():
    used = set()
    for page in PROSE:
        for _, address in links(page.read_text()):
            if address.endswith((".jpg", ".png")) and "://" not in address:
                used.add((page.parent / address).resolve())
    for picture in used:
        if picture.name != "demo.png":  # made by `make demo`, in full
            assert picture.stat().st_size <= BIGGEST_PICTURE, picture
        Image.open(picture).verify()
    assert {path.resolve() for path in (HELP / "images").iterdir()} <= used


def test_readme_tells_which_node_one_needs():
    readme = (REPOSITORY / "README.md").read_text()
    table = readme.partition("## Which node do I need?")[2].partition("\n## ")[0]
    english = refresh.load("en")
    linked = dict(reversed(pair) for pair in links(table))
    assert linked == {f"web/docs/{node}.md": english[node]["display_name"] for node in NODES}


def test_readme_says_for_every_published_checkpoint_where_it_is():
    readme = (REPOSITORY / "README.md").read_text()
    known = (REPOSITORY / "ssi_core" / "models" / "known.json").read_text()
    addresses = set(re.findall(r"https://[^\s\"]+?\.(?:pt|pkl)", known))
    assert len(addresses) >= 30
    for address in addresses:
        row = next((line for line in readme.splitlines() if f"({address})" in line), "")
        assert re.search(r"[\d,]+ MB \| .+ \| `ssi invert .+` \|$", row), address


def test_comfyui_has_nothing_to_install():
    lines = (REPOSITORY / "requirements.txt").read_text().splitlines()
    assert lines and all(line.startswith("#") for line in lines)
    of_the_shell = "matplotlib|typer|rich|websocket|skimage|sklearn|lpips"
    for path in (REPOSITORY / "nodes").rglob("*.py"):
        found = re.findall(rf"^\s*(?:import|from) ({of_the_shell})", path.read_text(), re.M)
        assert not found, (path, found)


def test_metadata_of_the_registry():
    text = (REPOSITORY / "pyproject.toml").read_text()
    comfy = text.partition("[tool.comfy]\n")[2].partition("\n[")[0]
    repository = re.search(r'^Repository = "https://github.com/(.+)"$', text, re.M)[1]
    shapes = {}
    for name in ("Icon", "Banner"):
        path = re.search(rf'^{name} = "https://raw.githubusercontent.com/{repository}/main/(.+)"$', comfy, re.M)[1]
        shapes[name] = Image.open(REPOSITORY / path).size
    assert shapes["Icon"] == (400, 400)
    assert shapes["Banner"][0] * 9 == shapes["Banner"][1] * 21
    for name in ("PublisherId", "DisplayName", "requires-comfyui"):
        assert re.search(rf'^{name} = ".+"$', comfy, re.M), name
    assert '"Operating System :: OS Independent"' in text
