//! Plots of an evaluation.

use crate::cli::{
    Failure, one_line,
    page::plots::{Area, GRID, INK, PALETTE, WIDTH, bar, draw, style},
};
use intentgate::eval::{Calibration, Curves, Epoch, Evaluation, Threshold};
use plotters::{
    coord::types::RangedCoordf64,
    prelude::*,
    series::DashedLineSeries,
    style::text_anchor::{HPos, Pos, VPos},
};
use std::ops::Range;

/// Two plots of this width stand side by side.
const HALF: u32 = 430;
const HEIGHT: u32 = 300;
/// Of confidence, as the expected calibration error has them.
const BINS: f64 = 15.0;
/// Characters of a label in a plot.
const LABEL: usize = 24;

/// In-scope rows, and whatever is good.
pub const GOOD: usize = 0;
/// Out-of-scope rows, and errors.
pub const BAD: usize = 2;

/// A measure by epoch, the best epochs marked.
pub fn epochs(epochs: &[Epoch], name: &str, value: fn(&Epoch) -> f64) -> Result<String, Failure> {
    let points: Vec<(f64, f64)> = epochs.iter().map(|epoch| (epoch.epoch as f64, value(epoch))).collect();
    let last = points.last().map_or(1.0, |point| point.0);
    let (low, high) =
        points.iter().fold((f64::MAX, f64::MIN), |(low, high), point| (low.min(point.1), high.max(point.1)));
    let room = ((high - low) * 0.06).max(1e-3);
    draw(HALF, HEIGHT, |area| {
        let whole = |epoch: &f64| if epoch.fract() == 0.0 { epoch.to_string() } else { String::new() };
        let plain = |value: &f64| format!("{:.4}", value).trim_end_matches('0').trim_end_matches('.').to_owned();
        let mut chart = chart(area, ("epoch", 0.5..last + 0.5, &whole), (name, low - room..high + room, &plain))?;
        chart.draw_series(LineSeries::new(points.iter().copied(), PALETTE[GOOD].light.stroke_width(2)))?;
        let best = epochs.iter().filter(|epoch| epoch.best).map(|epoch| (epoch.epoch as f64, value(epoch)));
        chart.draw_series(best.map(|point| Circle::new(point, 4, PALETTE[GOOD].light.filled())))?;
        Ok(())
    })
}

/// Accuracy by bin of confidence, with the interval of each: `interval` takes a share and the number of rows.
pub fn reliability(bins: &[Calibration], interval: fn(f64, usize) -> (f64, f64)) -> Result<String, Failure> {
    draw(HALF, HEIGHT, |area| {
        let mut chart = chart(area, ("confidence", 0.0..1.0, &percent), ("right", 0.0..1.0, &percent))?;
        for bin in bins {
            let (from, to) = edges(bin);
            let middle = (from + to) / 2.0;
            let (low, high) = interval(bin.accuracy, bin.rows);
            chart.draw_series([bar([(from, 0.0), (to, bin.accuracy)], &PALETTE[GOOD], (0, 0, 1, 1))])?;
            chart.draw_series([PathElement::new([(middle, low), (middle, high)], INK.light.stroke_width(1))])?;
        }
        chart.draw_series(dashed([(0.0, 0.0), (1.0, 1.0)]))?;
        Ok(())
    })
}

/// Where a bin begins and ends, by the mean confidence in it.
fn edges(bin: &Calibration) -> (f64, f64) {
    let n = (bin.confidence * BINS).floor().min(BINS - 1.0);
    (n / BINS, (n + 1.0) / BINS)
}

/// Rows in and out of scope by OOS score, with the lowest and the highest threshold.
pub fn oos_scores(curves: &Curves, thresholds: &[f32]) -> Result<String, Failure> {
    let sides = [&curves.in_scope_oos_scores, &curves.out_of_scope_oos_scores];
    let highest = sides.into_iter().flatten().copied().max().unwrap_or(1).max(1) as f64;
    // Below one row, so that a bar of one row can be seen.
    let (bottom, top) = (0.6, highest * 1.3);
    draw(WIDTH, HEIGHT, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(42)
            .y_label_area_size(64)
            .build_cartesian_2d(0f64..1.0, (bottom..top).log_scale())?;
        style(&mut chart.configure_mesh())
            .disable_x_mesh()
            .x_desc("OOS score")
            .x_label_formatter(&|score| format!("{score:.1}"))
            .y_desc("rows, logarithmic")
            .y_labels(6)
            .y_label_formatter(&|rows| format!("{rows:.0}"))
            .draw()?;
        for (side, (bins, colour)) in sides.into_iter().zip([GOOD, BAD]).enumerate() {
            let half = 0.5 / bins.len().max(1) as f64;
            for (bin, &rows) in bins.iter().enumerate().filter(|(_, rows)| **rows > 0) {
                let from = (2 * bin + side) as f64 * half;
                chart.draw_series([bar(
                    [(from, bottom), (from + half, rows as f64)],
                    &PALETTE[colour],
                    (0, 0, 0, 0),
                )])?;
            }
        }
        for &threshold in thresholds {
            chart.draw_series(dashed([(f64::from(threshold), bottom), (f64::from(threshold), top)]))?;
        }
        Ok(())
    })
}

/// Errors among the most confident rows.
pub fn risk_coverage(curves: &Curves) -> Result<String, Failure> {
    let points: Vec<(f64, f64)> = curves.risk_coverage.iter().map(|point| (point.coverage, point.risk)).collect();
    let highest = points.iter().map(|point| point.1).fold(0.01, f64::max);
    draw(HALF, HEIGHT, |area| {
        let x = ("rows kept, the most confident first", 0.0..1.0, &percent as Format);
        let mut chart = chart(area, x, ("wrong among them", 0.0..highest * 1.05, &percent))?;
        let colour = PALETTE[GOOD].light;
        chart.draw_series(AreaSeries::new(points, 0.0, colour.mix(0.2)).border_style(colour.stroke_width(2)))?;
        Ok(())
    })
}

/// False refusals against OOS recall, and where the thresholds of the model stand.
pub fn false_refusals(curves: &Curves, model: (f64, f64)) -> Result<String, Failure> {
    // Nobody runs a bot in the long flat part of the curve.
    let enough = curves.false_refusal_at_95_recall.unwrap_or(1.0);
    let right = (1.5 * enough.max(model.0)).clamp(0.02, 1.0);
    let thresholds = curves.thresholds.iter();
    let points = thresholds.map(|t| (t.false_refusal_rate, t.oos_recall)).take_while(|point| point.0 <= right);
    trade(("in-scope rows refused", 0.0..right), ("out-of-scope rows refused", 0.0..1.0), points, model)
}

/// OOS recall against in-scope accuracy, and where the thresholds of the model stand.
pub fn in_scope_accuracy(thresholds: &[Threshold], model: (f64, f64)) -> Result<String, Failure> {
    let best = thresholds.iter().map(|t| t.in_scope_accuracy).fold(model.1, f64::max);
    let bottom = 0.9 * model.1;
    let points = thresholds.iter().map(|t| (t.oos_recall, t.in_scope_accuracy)).take_while(|point| point.1 >= bottom);
    let top = (best + 0.1 * (best - bottom)).min(1.0).max(bottom + 0.01);
    trade(("out-of-scope rows refused", 0.0..1.0), ("in-scope rows right", bottom..top), points, model)
}

fn trade(
    (x_name, x): (&str, Range<f64>),
    (y_name, y): (&str, Range<f64>),
    points: impl Iterator<Item = (f64, f64)>,
    model: (f64, f64),
) -> Result<String, Failure> {
    draw(HALF, HEIGHT, |area| {
        let mut chart = chart(area, (x_name, x, &percent), (y_name, y, &percent))?;
        chart.draw_series(LineSeries::new(points, PALETTE[GOOD].light.stroke_width(2)))?;
        chart.draw_series([Circle::new(model, 6, PALETTE[BAD].light.filled())])?;
        Ok(())
    })
}

/// Rows by true label (down) and given label (across), of the labels with these numbers.
pub fn confusion(evaluation: &Evaluation, labels: &[usize]) -> Result<String, Failure> {
    let names: Vec<String> = labels.iter().map(|&label| short(&evaluation.labels[label])).collect();
    let longest = 8 * names.iter().map(|name| columns(name)).max().unwrap_or(1) as i32 + 16;
    let count = labels.len().max(1) as i32;
    let wide = ((WIDTH as i32 - longest - 8) / count).clamp(24, 136);
    let (high, lying) = (wide.min(38), wide >= longest);
    let left = longest.max(64);
    let top = if lying { 40 } else { longest.max(64) };
    draw((left + wide * count + 8) as u32, (top + high * count + 8) as u32, |area| {
        let font = |size: i32| ("sans-serif", size).into_font().color(&INK.light);
        let text = |text: &str, at: (i32, i32), style: TextStyle<'_>, h: HPos| {
            area.draw_text(text, &style.pos(Pos::new(h, VPos::Center)), at)
        };
        text("true \u{2193} given \u{2192}", (left - 8, top - 12), font(14), HPos::Right)?;
        for (n, (&label, name)) in (0..).zip(labels.iter().zip(&names)) {
            let (x, y) = (left + n * wide, top + n * high);
            text(name, (left - 8, y + high / 2), font(15), HPos::Right)?;
            if lying {
                text(name, (x + wide / 2, top - 12), font(15), HPos::Center)?;
            } else {
                text(name, (x + wide / 2, top - 8), font(15).transform(FontTransform::Rotate270), HPos::Left)?;
            }
            let rows = evaluation.confusion[label].iter().sum::<usize>().max(1) as f64;
            for (m, &given) in (0..).zip(labels) {
                let corner = (left + m * wide, y);
                let corners = [corner, (corner.0 + wide, corner.1 + high)];
                let cell = evaluation.confusion[label][given];
                let colour = if label == given { &PALETTE[GOOD] } else { &PALETTE[BAD] };
                // The root, as otherwise no single error could be seen; never so dark that the number could not.
                let shade = 0.65 * (cell as f64 / rows).sqrt();
                area.draw(&Rectangle::new(corners, colour.light.mix(shade).filled()))?;
                area.draw(&Rectangle::new(corners, GRID.light))?;
                if cell > 0 {
                    let at = (corner.0 + wide / 2, corner.1 + high / 2);
                    text(&cell.to_string(), at, font(if wide < 32 { 12 } else { 14 }), HPos::Center)?;
                }
            }
        }
        Ok(())
    })
}

/// A label that fits beside a plot.
fn short(label: &str) -> String {
    let label = one_line(label);
    if columns(&label) <= LABEL {
        return label;
    }
    let mut wide = 0;
    let kept = label.chars().take_while(|&c| {
        wide += width(c);
        wide < LABEL
    });
    kept.chain(['\u{2026}']).collect()
}

/// How wide a text is, roughly, in letters.
fn columns(text: &str) -> usize {
    text.chars().map(width).sum()
}

fn width(c: char) -> usize {
    // Hangul, kana and ideographs begin there.
    if c >= '\u{1100}' { 2 } else { 1 }
}

fn dashed<X: Copy + 'static, Y: Copy + 'static>(
    ends: [(X, Y); 2],
) -> DashedLineSeries<std::array::IntoIter<(X, Y), 2>, i32> {
    DashedLineSeries::new(ends, 5, 4, INK.light.into())
}

type Format<'a> = &'a dyn Fn(&f64) -> String;
type Chart<'a, 'b> = ChartContext<'a, SVGBackend<'b>, Cartesian2d<RangedCoordf64, RangedCoordf64>>;

fn percent(share: &f64) -> String {
    format!("{} %", (1000.0 * share).round() / 10.0)
}

/// A chart with axes of a name, a range and a format of its numbers.
fn chart<'a, 'b>(
    area: &'a Area<'b>,
    (x_name, x, x_format): (&str, Range<f64>, Format<'_>),
    (y_name, y, y_format): (&str, Range<f64>, Format<'_>),
) -> Result<Chart<'a, 'b>, Failure> {
    let mut chart = ChartBuilder::on(area)
        .margin(8)
        .margin_right(20)
        .x_label_area_size(42)
        .y_label_area_size(68)
        .build_cartesian_2d(x, y)?;
    style(&mut chart.configure_mesh())
        .disable_x_mesh()
        .x_labels(6)
        .y_labels(6)
        .x_desc(x_name)
        .y_desc(y_name)
        .x_label_formatter(x_format)
        .y_label_formatter(y_format)
        .draw()?;
    Ok(chart)
}
