//! A report as one page that stands by itself: no network, no script, light and dark, from phone to desk.
//!
//! Every text goes through [`escape`]; only what the functions here make is markup. A policy in the page forbids
//! scripts and loads besides, so that a text that got through would still do nothing.

pub mod plot;
mod style;

use std::fmt::Write as _;

/// A text as it stands in a page, in elements and in quoted attributes: nothing in it is markup. What would be
/// invisible or turn other text around is shown as a character that cannot be shown.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            '\n' | '\t' => escaped.push(c),
            c if c.is_control() || turns_text(c) => escaped.push(char::REPLACEMENT_CHARACTER),
            c => escaped.push(c),
        }
    }
    escaped
}

/// Whether a character changes the direction of those around it.
const fn turns_text(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A page in the making.
#[derive(Debug, Clone)]
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// A page with this title, a text.
    pub fn new(title: &str) -> Self {
        let title = escape(title);
        let body = format!("<header>\n<h1>{title}</h1>\n</header>\n");
        Self { title, body }
    }

    /// Adds a section. `heading` is a text; `html` is markup, made by the functions of this module.
    pub fn section(&mut self, heading: &str, html: &str) {
        let heading = escape(heading);
        let _ = writeln!(self.body, "<section>\n<h2>{heading}</h2>\n{html}</section>");
    }

    /// Adds markup between sections, made by the functions of this module.
    pub fn add(&mut self, html: &str) {
        self.body.push_str(html);
    }

    /// The page.
    pub fn render(&self) -> String {
        let Self { title, body } = self;
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n\
             <style>\n{style}</style>\n</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n",
            style = style::STYLE,
        )
    }
}

/// A heading within a section.
pub fn subheading(text: &str) -> String {
    format!("<h3>{}</h3>\n", escape(text))
}

/// A text as a paragraph.
pub fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escape(text))
}

/// A text that is less than others: how to read what stands above it.
pub fn note(text: &str) -> String {
    format!("<p class=\"soft\">{}</p>\n", escape(text))
}

/// Texts as a list.
pub fn list<T: AsRef<str>>(items: &[T]) -> String {
    let mut html = "<ul>\n".to_owned();
    for item in items {
        let _ = writeln!(html, "<li>{}</li>", escape(item.as_ref()));
    }
    html + "</ul>\n"
}

/// A text as it is typed: line for line, all of one width.
pub fn code(text: &str) -> String {
    format!("<pre><code>{}</code></pre>\n", escape(text))
}

/// What is said of it, name and value.
pub fn facts<T: AsRef<str>>(pairs: &[(T, T)]) -> String {
    let mut html = "<dl>\n".to_owned();
    for (name, value) in pairs {
        let (name, value) = (escape(name.as_ref()), escape(value.as_ref()));
        let _ = writeln!(html, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    }
    html + "</dl>\n"
}

/// Rows of numbers, the first of which are headings, as are the first cells of the others. A table that is too wide
/// for the page is moved in a frame of its own, which `caption` tells to those who do not see it.
pub fn table<T: AsRef<str>>(caption: &str, rows: &[Vec<T>]) -> String {
    framed("numbers", caption, rows)
}

/// The same of words, which are set in lines as the room demands.
pub fn words<T: AsRef<str>>(caption: &str, rows: &[Vec<T>]) -> String {
    framed("words", caption, rows)
}

fn framed<T: AsRef<str>>(class: &str, caption: &str, rows: &[Vec<T>]) -> String {
    let caption = escape(caption);
    let mut html = format!(
        "<div class=\"wide\" role=\"region\" aria-label=\"{caption}\" tabindex=\"0\">\n<table class=\"{class}\">\n"
    );
    for (index, row) in rows.iter().enumerate() {
        html.push_str("<tr>");
        for (column, cell) in row.iter().enumerate() {
            let cell = escape(cell.as_ref());
            let _ = match (index, column) {
                (0, _) => write!(html, "<th scope=\"col\">{cell}</th>"),
                (_, 0) => write!(html, "<th scope=\"row\">{cell}</th>"),
                _ => write!(html, "<td>{cell}</td>"),
            };
        }
        html.push_str("</tr>\n");
    }
    html + "</table>\n</div>\n"
}

/// What a [`notice`] says of what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// It is as it should be.
    Good,
    /// It is not.
    Bad,
}

/// A judgement, said first: a heading and its reasons, told apart by a sign and not by colour alone.
pub fn notice<T: AsRef<str>>(tone: Tone, heading: &str, lines: &[T]) -> String {
    let (class, sign) = match tone {
        Tone::Good => ("good", "✓"),
        Tone::Bad => ("bad", "✗"),
    };
    let heading = escape(heading);
    let lines = if lines.is_empty() { String::new() } else { list(lines) };
    format!(
        "<div class=\"notice {class}\" role=\"note\">\n<p><span aria-hidden=\"true\">{sign}</span> {heading}</p>\n{lines}</div>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What somebody might call an image.
    const EVIL: &str =
        "\"'><script>alert(1)</script><img src=x onerror=alert(1)>&lt;\u{202e}\0\u{1b}[31m";

    #[test]
    fn nothing_in_a_text_is_markup() {
        let escaped = escape(EVIL);
        assert!(!escaped.contains(['<', '>', '"', '\'', '\0', '\u{1b}', '\u{202e}']), "{escaped}");
        assert!(escaped.contains("&lt;script&gt;") && escaped.contains("&amp;lt;"), "{escaped}");
        assert_eq!(escape("a\n\tb – é"), "a\n\tb – é");
    }

    #[test]
    fn every_part_of_a_page_escapes() {
        let mut page = Page::new(EVIL);
        page.section(EVIL, &paragraph(EVIL));
        page.add(&subheading(EVIL));
        page.add(&note(EVIL));
        page.add(&list(&[EVIL]));
        page.add(&code(EVIL));
        page.add(&facts(&[(EVIL, EVIL)]));
        page.add(&table(EVIL, &[vec![EVIL, EVIL], vec![EVIL, EVIL]]));
        page.add(&words(EVIL, &[vec![EVIL, EVIL], vec![EVIL, EVIL]]));
        page.add(&notice(Tone::Bad, EVIL, &[EVIL]));
        let html = page.render();
        assert_eq!(html.matches("&lt;script&gt;").count(), 22, "{html}");
        assert!(
            !html.contains("<script") && !html.contains("<img") && !html.contains("onerror=\"")
        );
    }

    #[test]
    fn page_asks_for_nothing_from_elsewhere() {
        let html = Page::new("t").render();
        assert!(html.contains("default-src 'none'"));
        for sign in ["http:", "https:", "src=", "url(", "@import", "href="] {
            assert!(!html.contains(sign), "{sign}");
        }
    }
}
