"""A page in a browser that may ask for nothing and complain of nothing."""

from __future__ import annotations

import contextlib

# Runs in the page: every visible text with too little contrast to what is behind it (WCAG AA).
CONTRAST = """() => {
  const numbers = css => css.match(/[\\d.]+/g).map(Number);
  const luminance = css => numbers(css).slice(0, 3).map(v => v / 255)
    .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = node => {
    for (let e = node; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor, parts = numbers(color);
      if (parts.length === 3 || parts[3] === 1) return color;
    }
    return 'rgb(255, 255, 255)';
  };
  const poor = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const ink = element.namespaceURI.endsWith('svg') ? style.fill : style.color;
    const [a, b] = [luminance(ink), luminance(behind(element))].sort((x, y) => y - x);
    seen += 1;
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push([walker.currentNode.textContent, ink]);
  }
  return {seen, poor};
}"""


@contextlib.contextmanager
def opened(browser, path, *, width=1440, height=900, scheme="light"):
    """The page with the network refused: it may ask for nothing and complain of nothing."""
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    complaints: list[str] = []
    requests: list[str] = []

    def route(route, request):
        requests.append(request.url)
        if request.url == path.as_uri():
            route.continue_()
        else:
            route.abort()

    page.route("**/*", route)
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.goto(path.as_uri())
    yield page
    page.wait_for_timeout(100)
    assert complaints == []
    assert requests == [path.as_uri()]
    context.close()
