//! Plots as SVG for the page around them.
//!
//! Colours are those of a light page; the page's style sheet replaces them by value on a dark one.

use crate::cli::Failure;
use plotters::{chart::MeshStyle, prelude::*};

/// A colour on a light page and on a dark one.
pub struct Colour {
    pub light: RGBColor,
    pub dark: RGBColor,
}

/// Text and axes.
pub const INK: Colour = Colour { light: RGBColor(0x24, 0x29, 0x2F), dark: RGBColor(0xDD, 0xE1, 0xE6) };
/// Lines behind the bars.
pub const GRID: Colour = Colour { light: RGBColor(0xD8, 0xDC, 0xE1), dark: RGBColor(0x3A, 0x40, 0x49) };
/// Blue, yellow, red, green and grey: far from each other for colour-blind readers, too.
pub const PALETTE: [Colour; 5] = [
    Colour { light: RGBColor(0x2F, 0x6D, 0xB5), dark: RGBColor(0x6A, 0xA5, 0xE8) },
    Colour { light: RGBColor(0xE0, 0xA8, 0x2E), dark: RGBColor(0xEC, 0xC4, 0x62) },
    Colour { light: RGBColor(0xB5, 0x42, 0x2B), dark: RGBColor(0xE9, 0x87, 0x6C) },
    Colour { light: RGBColor(0x2E, 0x8B, 0x75), dark: RGBColor(0x63, 0xC6, 0xAD) },
    Colour { light: RGBColor(0x8A, 0x8F, 0x98), dark: RGBColor(0x9A, 0xA1, 0xAC) },
];

/// Pixels across the page.
pub const WIDTH: u32 = 860;
/// Pixels between two bars, halved.
pub const GAP: u32 = 2;

pub type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

pub fn draw(width: u32, height: u32, plot: impl FnOnce(&Area<'_>) -> Result<(), Failure>) -> Result<String, Failure> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
    plot(&area)?;
    area.present()?;
    drop(area);
    Ok(svg)
}

/// A filled rectangle; `margin` is in pixels: above, below, left and right.
pub fn bar<C>(corners: [C; 2], colour: &Colour, margin: (u32, u32, u32, u32)) -> Rectangle<C> {
    let mut bar = Rectangle::new(corners, colour.light.filled());
    bar.set_margin(margin.0, margin.1, margin.2, margin.3);
    bar
}

/// How axes, lines and labels look in every plot.
pub fn style<'m, 'a, 'b, X: Ranged, Y: Ranged, DB: DrawingBackend>(
    mesh: &'m mut MeshStyle<'a, 'b, X, Y, DB>,
) -> &'m mut MeshStyle<'a, 'b, X, Y, DB> {
    mesh.axis_style(INK.light)
        .bold_line_style(GRID.light)
        .light_line_style(TRANSPARENT)
        .label_style(("sans-serif", 15).into_font().color(&INK.light))
}
