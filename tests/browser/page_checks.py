"""What every report must be, asked of the page in the browser."""

# The widest element that sticks out of the window without a scrolling container around it.
_STICKING_OUT = """() => {
  const scrolls = (element) => {
    for (let node = element; node; node = node.parentElement)
      if (["auto", "scroll", "hidden"].includes(getComputedStyle(node).overflowX)) return true;
    return false;
  };
  const wide = [...document.body.querySelectorAll("*")].filter(
    (element) => element.getBoundingClientRect().right > innerWidth + 0.5 && !scrolls(element));
  return wide.map((element) => `${element.tagName}.${element.className.baseVal ?? element.className}`).slice(0, 5);
}"""

# WCAG's contrast of the text of elements against the nearest background that is painted.
_CONTRASTS = """(selectors) => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = numbers(colour).map((level) => linear(level / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let node = element; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (numbers(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  return Object.fromEntries(selectors.map((selector) => {
    const element = document.querySelector(selector);
    const style = getComputedStyle(element);
    const ink = element.ownerSVGElement ? style.fill : style.color;
    const [high, low] = [luminance(ink), luminance(ground(element))].sort((a, b) => b - a);
    return [selector, (high + 0.05) / (low + 0.05)];
  }));
}"""


def overflow(page) -> list[str]:
    """What sticks out of the window on the right; nothing where the page does not scroll sideways."""
    beyond = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return page.evaluate(_STICKING_OUT) or ([f"{beyond} px"] if beyond else [])


def contrasts(page, selectors: list[str]) -> dict[str, float]:
    """Contrast of the text of the first element that each selector finds."""
    return page.evaluate(_CONTRASTS, selectors)


def open_details(page) -> None:
    """Open what is folded, so that it is looked at too."""
    page.evaluate("document.querySelectorAll('main > section > details').forEach((part) => { part.open = true; })")


def screenshot_size(page, path) -> tuple[int, int]:
    """Photograph the whole page into a PNG file; returns its width and height."""
    content = page.screenshot(path=path, full_page=True)
    return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
