//! A page that needs nothing else: no script, nothing fetched.

use super::plots::{Colour, GRID, INK, PALETTE};
use std::fmt::{self, Write as _};

const STYLE: &str = "
:root { color-scheme: light dark; --paper: #ffffff; --ink: #24292f; --soft: #5b6470; --line: #d8dce1; --tile: #f4f6f8; }
@media screen and (prefers-color-scheme: dark) {
  :root { --paper: #15181c; --ink: #dde1e6; --soft: #9aa3ae; --line: #3a4049; --tile: #1f242a; }
}
body { margin: 0 auto; max-width: 58rem; padding: 2rem 1.2rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, 'Segoe UI', Roboto, 'Noto Sans', sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.6rem 0 .6rem; padding-top: .9rem; border-top: 1px solid var(--line); }
p, dd { max-width: 46rem; }
.soft, figcaption, dd { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.6rem, 1fr)); gap: .7rem;
  margin: 1.3rem 0; padding: 0; }
.tiles li { list-style: none; background: var(--tile); border-radius: .4rem; padding: .6rem .9rem; }
.tiles b { display: block; font-size: 1.4rem; }
.tiles small { display: block; color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .8rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .28rem .8rem .28rem 0; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; }
td.number { white-space: nowrap; }
th { vertical-align: bottom; }
td.text { overflow-wrap: anywhere; min-width: 14rem; white-space: pre-line; unicode-bidi: plaintext; }
td.place { overflow-wrap: anywhere; min-width: 8rem; }
code { font: .85em ui-monospace, 'DejaVu Sans Mono', monospace; overflow-wrap: anywhere; }
figure { margin: 1rem 0; }
figure > svg { max-width: 100%; height: auto; display: block; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 0 1.6rem; }
summary { color: var(--soft); cursor: pointer; }
figcaption { font-size: .93rem; max-width: 46rem; }
figcaption span { display: inline-block; margin-right: 1.1rem; }
figcaption svg { display: inline; vertical-align: -1px; }
dt { font-weight: 600; margin-top: .7rem; }
dd { margin: 0; }
@media print {
  :root { color-scheme: light; }
  body { max-width: none; padding: 0; font-size: 11px; } h2 { break-after: avoid; } figure, tr { break-inside: avoid; }
  details::details-content { content-visibility: visible; block-size: auto; } summary { display: none; }
}
";

/// Any text on the page goes through this: data hold what customers typed.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            // Not allowed in HTML, however they are written.
            c if c.is_control() && c != '\n' => f.write_char(' '),
            _ => f.write_char(c),
        })
    }
}

fn hex(colour: plotters::style::RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2)
}

/// Replaces the colours of plots and legends on a dark page.
fn dark_style() -> String {
    let rules = PALETTE.iter().chain([&INK, &GRID]).fold(String::new(), |rules, Colour { light, dark }| {
        let (light, dark) = (hex(*light), hex(*dark));
        rules + &format!("[fill=\"{light}\"]{{fill:{dark}}}[stroke=\"{light}\"]{{stroke:{dark}}}")
    });
    format!("@media screen and (prefers-color-scheme: dark){{{rules}}}")
}

/// A page in the making.
pub struct Page(String);

impl Page {
    pub fn new(title: &str) -> Self {
        let title = Escaped(title);
        Page(format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <title>{title}</title>\n<style>{STYLE}{}</style></head>\n<body>\n<h1>{title}</h1>\n",
            dark_style()
        ))
    }

    pub fn finish(mut self) -> String {
        self.0.push_str("</body></html>\n");
        self.0
    }

    /// Lines about the whole page, below its title.
    pub fn about<'a>(&mut self, lines: impl IntoIterator<Item = &'a str>) {
        let lines: Vec<String> = lines.into_iter().map(|line| Escaped(line).to_string()).collect();
        let _ = writeln!(self.0, "<p class=\"soft\">{}</p>", lines.join("<br>"));
    }

    /// Key figures: value, name, and a note, which may be empty.
    pub fn tiles<'a>(&mut self, tiles: impl IntoIterator<Item = (String, &'a str, String)>) {
        self.0.push_str("<ul class=\"tiles\">\n");
        for (value, name, note) in tiles {
            let _ = write!(self.0, "<li><b>{}</b>{}", Escaped(&value), Escaped(name));
            if !note.is_empty() {
                let _ = write!(self.0, "<small>{}</small>", Escaped(&note));
            }
            self.0.push_str("</li>\n");
        }
        self.0.push_str("</ul>\n");
    }

    pub fn heading(&mut self, text: &str) {
        let _ = writeln!(self.0, "<h2>{}</h2>", Escaped(text));
    }

    pub fn paragraph(&mut self, text: &str) {
        let _ = writeln!(self.0, "<p>{}</p>", Escaped(text));
    }

    pub fn definitions<'a>(&mut self, definitions: impl IntoIterator<Item = (&'a str, &'a str)>) {
        self.0.push_str("<dl>\n");
        for (name, definition) in definitions {
            let _ = writeln!(self.0, "<dt>{}</dt><dd>{}</dd>", Escaped(name), Escaped(definition));
        }
        self.0.push_str("</dl>\n");
    }

    /// What `content` writes is shown when the reader asks for it, and on paper.
    pub fn folded(&mut self, summary: &str, content: impl FnOnce(&mut Self)) {
        let _ = writeln!(self.0, "<details><summary>{}</summary>", Escaped(summary));
        content(self);
        self.0.push_str("</details>\n");
    }

    /// Figures side by side where there is room.
    pub fn pair<E>(&mut self, content: impl FnOnce(&mut Self) -> Result<(), E>) -> Result<(), E> {
        self.0.push_str("<div class=\"pair\">\n");
        content(self)?;
        self.0.push_str("</div>\n");
        Ok(())
    }

    /// Columns whose heading begins with `#` hold numbers, those with `"` text of
    /// customers, those with `/` names of files.
    pub fn table<H: AsRef<str>, R: IntoIterator<Item = String>>(
        &mut self,
        header: impl IntoIterator<Item = H>,
        rows: impl IntoIterator<Item = R>,
    ) {
        self.0.push_str("<div class=\"wide\"><table><thead><tr>");
        let mut classes = Vec::new();
        for name in header {
            let (class, name) = match name.as_ref().split_at_checked(1) {
                Some(("#", name)) => (" class=\"number\"", name),
                Some(("/", name)) => (" class=\"place\"", name),
                Some(("\"", name)) => (" class=\"text\" dir=\"auto\"", name),
                _ => ("", name.as_ref()),
            };
            let _ = write!(self.0, "<th scope=\"col\"{class}>{}</th>", Escaped(name));
            classes.push(class);
        }
        self.0.push_str("</tr></thead><tbody>\n");
        for row in rows {
            self.0.push_str("<tr>");
            for (cell, class) in row.into_iter().zip(&classes) {
                let _ = write!(self.0, "<td{class}>{}</td>", Escaped(&cell));
            }
            self.0.push_str("</tr>\n");
        }
        self.0.push_str("</tbody></table></div>\n");
    }

    /// A plot, made with [`plots`](super::plots), which escapes what it draws.
    pub fn figure(&mut self, svg: &str, legend: &[(&Colour, &str)], caption: &str) {
        let _ = write!(self.0, "<figure>{svg}<figcaption>");
        for (colour, name) in legend {
            let fill = hex(colour.light);
            let swatch =
                format!("<svg width=\"12\" height=\"12\"><rect width=\"12\" height=\"12\" fill=\"{fill}\"/></svg>");
            let _ = write!(self.0, "<span>{swatch} {}</span>", Escaped(name));
        }
        let line = if legend.is_empty() { "" } else { "<br>" };
        let _ = writeln!(self.0, "{line}{}</figcaption></figure>", Escaped(caption));
    }
}
