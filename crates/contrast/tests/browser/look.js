// What is wrong with a page, as a reader would see it; and what there is to see.
(() => {
  const wrong = [];
  const say = (is, what) => { if (is) wrong.push(what); };
  const page = document.documentElement;
  say(page.scrollWidth > innerWidth, `the page is ${page.scrollWidth} wide, not ${innerWidth}`);
  for (const element of document.querySelectorAll("body *:not(svg *)")) {
    if (element.closest(".wide") && !element.matches(".wide")) continue;
    const box = element.getBoundingClientRect();
    say(box.right > innerWidth + 0.5 || box.left < -0.5, `${element.tagName} sticks out`);
  }

  const channels = (colour) => colour.match(/[\d.]+/g).slice(0, 3).map(Number);
  const light = (colour) => {
    const [r, g, b] = channels(colour).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const contrast = (one, two) => {
    const [low, high] = [light(one), light(two)].sort((a, b) => a - b);
    return (high + 0.05) / (low + 0.05);
  };
  const paper = getComputedStyle(document.body).backgroundColor;
  const readable = (element, colour, behind, least) => {
    const found = contrast(colour, behind);
    say(found < least, `${element.className.baseVal ?? element.tagName} has a contrast of ${found.toFixed(1)}`);
  };
  for (const element of document.querySelectorAll("h1, h2, p, li, td, th, dt, dd, figcaption")) {
    readable(element, getComputedStyle(element).color, paper, 4.5);
  }

  const plots = [...document.querySelectorAll("svg")].filter((svg) => svg.getClientRects().length);
  for (const svg of plots) {
    const frame = svg.getBoundingClientRect();
    const name = svg.querySelector(":scope > title").textContent;
    say(frame.width < 200 || frame.height < 80, `${name} is ${frame.width} x ${frame.height}`);
    const texts = [...svg.querySelectorAll("text")].map((element) => {
      const { left, right, top, bottom } = element.getBoundingClientRect();
      return { element, left, right, top, bottom, text: element.textContent };
    });
    for (const text of texts) {
      const inside = text.left >= frame.left - 0.5 && text.right <= frame.right + 0.5
        && text.top >= frame.top - 0.5 && text.bottom <= frame.bottom + 0.5;
      say(!inside, `${name}: "${text.text}" is cut`);
      say(text.bottom - text.top < 8, `${name}: "${text.text}" is ${text.bottom - text.top} high`);
      const part = text.element.matches(".number") && text.element.previousElementSibling;
      const behind = part ? getComputedStyle(part).fill : paper;
      readable(text.element, getComputedStyle(text.element).fill, behind, 4.5);
    }
    texts.forEach((one, index) => {
      for (const two of texts.slice(index + 1)) {
        const meets = one.left < two.right - 0.5 && two.left < one.right - 0.5
          && one.top < two.bottom - 2 && two.top < one.bottom - 2;
        say(meets, `${name}: "${one.text}" meets "${two.text}"`);
      }
    });
    for (const mark of svg.querySelectorAll("circle, rect, line, polyline, polygon")) {
      const box = mark.getBoundingClientRect();
      say(box.left < frame.left - 0.5 || box.right > frame.right + 0.5, `${name}: a mark is outside`);
      const style = getComputedStyle(mark);
      if (mark.matches(".sign, .median")) {
        readable(mark, mark.matches(".sign") ? style.fill : style.stroke, paper, 3);
      }
    }
  }
  const active = "script, img, iframe, object, embed, link, base, form, audio, video, [onload], [onerror]";
  return {
    wrong: [...new Set(wrong)],
    active: document.querySelectorAll(active).length,
    plots: plots.map((svg) => ({
      title: svg.querySelector(":scope > title").textContent,
      marks: svg.querySelectorAll("circle, rect, polyline").length,
      texts: svg.querySelectorAll("text").length,
    })),
    text: document.body.innerText,
    paper,
  };
})()
