"""What a model writes is shown, and does nothing; whatever it is, showing it takes linear time."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from tests.page.server import Background, saying

Opened = Callable[..., Any]
Served = Callable[..., Background]

RENDER = """async ([address, pieces]) => {
  const { Markdown } = await import(address);
  const box = document.createElement("div");
  document.body.append(box);
  const began = performance.now();
  const markdown = new Markdown(box);
  for (const piece of pieces) markdown.append(piece);
  markdown.finish();
  const took = performance.now() - began;
  const elements = [...box.querySelectorAll("*")];
  const result = {
    took,
    text: box.textContent,
    count: elements.length,
    names: [...new Set(elements.map((each) => each.tagName.toLowerCase()))],
    attributes: [...new Set(elements.flatMap((each) => each.getAttributeNames()))],
    links: elements.filter((each) => each.href).map((each) => [each.href, each.rel]),
    depth: Math.max(0, ...elements.slice(0, 5000).map((each) => {
      let depth = 0;
      for (let at = each; at !== box; at = at.parentElement) depth += 1;
      return depth;
    })),
  };
  box.remove();
  return result;
}"""
NAMES = {
    "a", "blockquote", "br", "button", "code", "del", "div", "em", "h3", "hr", "li", "ol", "p",
    "pre", "span", "strong", "table", "tbody", "td", "th", "thead", "tr", "ul",
}  # fmt: skip
ATTRIBUTES = {"class", "href", "rel", "target", "type", "tabindex", "scope", "start"}


@pytest.fixture
def render(opened: Opened, served: Served) -> Callable[..., dict[str, Any]]:
    page = opened(served(saying("x")).url)
    address = page.get_attribute("link[href*='markdown.js']", "href")

    def rendered(*pieces: str) -> dict[str, Any]:
        result: dict[str, Any] = page.evaluate(RENDER, [f"/{address}", list(pieces)])
        return result

    return rendered


HOSTILE = [
    "<script>window.hurt = true</script>",
    "<img src=x onerror=window.hurt=true>",
    "<svg onload=window.hurt=true><iframe src=javascript:alert(1)></iframe>",
    "[click](javascript:window.hurt=true)",
    "[click](JaVaScRiPt:window.hurt=true) [x](data:text/html,<script>1</script>)",
    "[click](  vbscript:x) [y](\tjavascript:alert(1)) [z](file:///etc/passwd)",
    "![picture](https://evil.example/track.png)",
    '[a](https://ok.example/"onmouseover=alert(1))',
    "`<b>` **<i>x</i>** | <td onclick=x> |\n|---|\n| <script> |",
    "```html\n<script>window.hurt = true</script>\n```",
    '```" onclick=alert(1)\nx\n```',
    "> # <style>*{display:none}</style>\n> - <form action=//evil.example>",
    "<https://ok.example> <mailto:a@b.c> &lt;script&gt; &#x3c;",
    "\u202e\u2066 \u0000 \ufeff",
]


def test_no_text_becomes_markup(opened: Opened, served: Served) -> None:
    everything = "\n\n".join(HOSTILE)
    page = opened(served(saying("<think>", everything, "</think>", *everything)).url)
    page.fill("#text", everything)
    page.press("#text", "Enter")
    page.wait_for_selector(".message.assistant:not(.streaming) .foot")
    assert page.evaluate("window.hurt") is None
    assert "<script>window.hurt = true</script>" in page.inner_text(".message.assistant > .body")
    inside = (
        "[...document.querySelectorAll('.message .body *')].map((e) => e.tagName.toLowerCase())"
    )
    assert set(page.evaluate(inside)) <= NAMES


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_elements_attributes_and_links_are_those_of_the_renderer(
    render: Callable[..., dict[str, Any]], text: str
) -> None:
    for result in (render(text), render(*text)):
        assert set(result["names"]) <= NAMES
        assert set(result["attributes"]) <= ATTRIBUTES
        for address, rel in result["links"]:
            assert address.startswith(("https://", "http://"))
            assert "noopener" in rel


MEGABYTE = 1_000_000
BOMBS = {
    "letters": "a",
    "words": "word ",
    "lines": "a line of text\n",
    "paragraphs": "some text\n\n",
    "items": "* a\n",
    "spread items": "1. a\n\n",
    "deeper items": "".join(" " * n + "- a\n" for n in range(40)),
    "quotes": ">",
    "quotes with blanks": "> ",
    "nested quotes": "> > > > > > > > > > > > a\n",
    "strong": "**",
    "strong words": "**a ",
    "stars": "*a **b ",
    "underscores": "_a _",
    "struck": "~~a ",
    "ticks": "`a``b```",
    "brackets": "[",
    "half links": "[a](",
    "links": "[a](http://a.b/c) ",
    "long half links": "[a](" + "x" * 1900 + " ",
    "addresses": "http://",
    "addresses in a word": "xhttp://",
    "long addresses in a word": "xhttp://" + "y" * 100,
    "fences": "```\n",
    "a fence in a line": "x```",
    "code in one line": "```\n" + "x" * 5000,
    "heading": "# ",
    "heading of blanks": "# a" + " " * 4000 + "#x\n",
    "rules": "- - - - - - - - x\n",
    "tables": "| a | b |\n|---|---|\n",
    "small tables": "a|b\n-|-\n\n",
    "wide tables": "a|" * 40 + "b\n-|-\n\n",
    "pipes": "|",
    "table rule": "a|b\n-" + " " * 450 + "x\n",
    "escapes": "\\*",
    "marks": "*_~`[",
    "astral": "🌦️",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_megabyte_of_anything_is_shown_in_time_and_within_bounds(
    render: Callable[..., dict[str, Any]], name: str
) -> None:
    unit = BOMBS[name]
    text = (unit * (MEGABYTE // len(unit) + 1))[:MEGABYTE]
    pieces = [text[at : at + 500] for at in range(0, len(text), 500)]
    for result in (render(text), render(*pieces)):
        assert result["took"] < 20_000
        assert result["count"] < 80_000
        assert result["depth"] < 40
    print(name, round(result["took"]), "ms,", result["count"], "elements")


CALL = """async ([address, args]) => {
  const { MessageView } = await import(address);
  const message = { role: "assistant", content: "", calls: [{ id: "1", name: "f", args }] };
  const view = new MessageView(message, "model", {});
  view.finish();
  return view.calls.querySelector("code").textContent;
}"""


@pytest.mark.parametrize(
    ("args", "shown"),
    [
        ('{"a": [1]}', '{\n  "a": [\n    1\n  ]\n}'),
        ('{"a": "' + "[" * 100 + '\\""}', '{\n  "a": "' + "[" * 100 + '\\""\n}'),
        ("[" * 5000 + "]" * 5000, "[" * 5000 + "]" * 5000),
        ("[" * 60 + "0" + "]" * 60, "[" * 60 + "0" + "]" * 60),
        ('{"a":[', '{"a":['),
        ('"' + "\\" * 50_000, '"' + "\\" * 50_000),
    ],
    ids=["call", "brackets in a text", "deep", "deeper than 50", "cut", "backslashes"],
)
def test_the_arguments_of_a_call_are_indented_unless_they_nest_deeply(
    opened: Opened, served: Served, args: str, shown: str
) -> None:
    page = opened(served(saying("x")).url)
    address = page.get_attribute("link[href*='message.js']", "href")
    assert page.evaluate(CALL, [f"/{address}", args]) == shown


SAMPLE = """\
# Title

A *short* text with `code`, **strong** words and a [link](https://example.com/a_(b)).
A second line.

1. one

   ```python
   def f():
       return 1

   print(f())
   ```
2. two
    - inner
    - more

| a | b |
|---|:-:|
| 1 | `x|` |

> quoted
> - item

```
no language
~~~
```
~~~~
tildes
```
~~~~
---
The end"""


def test_however_the_text_arrives_it_is_shown_alike(
    render: Callable[..., dict[str, Any]],
) -> None:
    whole = render(SAMPLE)
    assert "    return 1\n\nprint(f())" in whole["text"]
    assert {"h3", "em", "strong", "ol", "ul", "table", "blockquote", "hr", "pre", "a"} <= set(
        whole["names"]
    )
    assert ["https://example.com/a_(b)", "noopener noreferrer nofollow"] in whole["links"]
    chance = random.Random(7)
    for _ in range(25):
        cuts = sorted(chance.sample(range(1, len(SAMPLE)), 12))
        pieces = [SAMPLE[a:b] for a, b in zip([0, *cuts], [*cuts, len(SAMPLE)], strict=True)]
        assert render(*pieces)["text"] == whole["text"], pieces
    assert render(*SAMPLE)["text"] == whole["text"]


def test_a_megabyte_through_the_chat_leaves_the_page_alive(opened: Opened, served: Served) -> None:
    part = "A paragraph of *some* words, and `code`.\n\n- item\n- item\n\n" * 40
    steps = [part] * (MEGABYTE // len(part))
    page = opened(served(saying(*steps)).url)
    page.fill("#text", "go")
    page.press("#text", "Enter")
    page.wait_for_selector(".message.assistant:not(.streaming) .foot", timeout=60_000)
    length = page.evaluate(
        "document.querySelector('.message.assistant > .body').textContent.length"
    )
    assert length > 0.8 * MEGABYTE
    page.reload()
    page.wait_for_selector(".message.assistant > .body:has-text('A paragraph')")
    stored = page.evaluate("(sessionStorage.getItem('serve-chat') || '').length")
    assert stored < 2_000_000
