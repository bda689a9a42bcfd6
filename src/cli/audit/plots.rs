//! Plots of a report.

use super::Failure;
use crate::cli::page::plots::{Colour, GAP, PALETTE, WIDTH, bar, draw, style};
use intentgate::audit::report::{Actions, Drift, OosBin};
use plotters::{
    coord::ranged1d::{IntoSegmentedCoord, SegmentValue},
    prelude::*,
};
use std::{collections::BTreeMap, ops::Range};

/// Of the actions, in the order of their names.
pub const ACTIONS: [Colour; 5] = PALETTE;

const HEIGHT: u32 = 260;

/// Messages by day, a bar for each, parted by action.
pub fn days(days: &BTreeMap<String, Actions>) -> Result<String, Failure> {
    let names: Vec<&str> = days.keys().map(|day| day.get(5..).unwrap_or(day)).collect();
    let bars: Vec<Vec<u64>> = days.values().map(|actions| actions.counts().into()).collect();
    columns(&names, &bars, &ACTIONS.each_ref())
}

/// Verdicts by OOS score, parted by what the guard made of them.
pub fn oos_scores(bins: &[OosBin]) -> Result<String, Failure> {
    let names: Vec<String> = (0..bins.len()).map(|n| format!("{:.2}", n as f64 / bins.len() as f64)).collect();
    let bars: Vec<Vec<u64>> = bins.iter().map(|bin| vec![bin.accepted, bin.refused]).collect();
    columns(&names, &bars, &[&ACTIONS[0], &ACTIONS[2]])
}

/// What is done with the messages of each language, as shares of a bar across.
pub fn languages(languages: &[(String, Actions)]) -> Result<String, Failure> {
    let rows = languages.len().max(1);
    draw(WIDTH, 22 * rows as u32 + 50, |area| {
        // From the top down, though the axis goes up.
        let name = |row: usize| languages.iter().rev().nth(row).map_or(String::new(), |(name, _)| name.clone());
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .margin_right(24)
            .x_label_area_size(26)
            .y_label_area_size(130)
            .build_cartesian_2d(0f64..1.0, numbers(rows).into_segmented())?;
        style(&mut chart.configure_mesh())
            .disable_y_mesh()
            .x_label_formatter(&|share| format!("{:.0} %", 100.0 * share))
            .y_labels(rows)
            .y_label_formatter(&|at| if let SegmentValue::CenterOf(row) = at { name(*row) } else { String::new() })
            .draw()?;
        for (row, (_, actions)) in languages.iter().rev().enumerate() {
            let mut from = 0.0;
            for (count, colour) in actions.counts().into_iter().zip(&ACTIONS) {
                let to = from + count as f64 / actions.messages.max(1) as f64;
                let corners = [(from, SegmentValue::Exact(row)), (to, SegmentValue::Exact(row + 1))];
                chart.draw_series([bar(corners, colour, (GAP, GAP, 0, 0))])?;
                from = to;
            }
        }
        Ok(())
    })
}

/// Confidence on the model card and in the log, side by side.
pub fn confidence(drift: &Drift) -> Result<String, Failure> {
    let bins = drift.confidence.len();
    let highest = drift.confidence.iter().fold(0.0, |highest: f64, bin| highest.max(bin.expected).max(bin.found));
    draw(WIDTH, HEIGHT, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(26)
            .y_label_area_size(56)
            .build_cartesian_2d(0f64..1.0, 0.0..highest.max(0.01) * 1.05)?;
        style(&mut chart.configure_mesh())
            .disable_x_mesh()
            .x_label_formatter(&|confidence| format!("{confidence:.1}"))
            .y_labels(6)
            .y_label_formatter(&|share| format!("{:.0} %", 100.0 * share))
            .draw()?;
        let half = 0.5 / bins as f64;
        for (n, bin) in drift.confidence.iter().enumerate() {
            let from = n as f64 / bins as f64;
            chart.draw_series([
                bar([(from, 0.0), (from + half, bin.expected)], &ACTIONS[4], (0, 0, GAP, 0)),
                bar([(from + half, 0.0), (from + 2.0 * half, bin.found)], &ACTIONS[0], (0, 0, 0, GAP)),
            ])?;
        }
        Ok(())
    })
}

/// One bar for each name, its parts on top of each other.
fn columns(names: &[impl AsRef<str>], bars: &[Vec<u64>], colours: &[&Colour]) -> Result<String, Failure> {
    let highest = bars.iter().map(|parts| parts.iter().sum::<u64>()).max().unwrap_or(0).max(1);
    draw(WIDTH, HEIGHT, |area| {
        let mut chart = ChartBuilder::on(area)
            .margin(8)
            .x_label_area_size(26)
            .y_label_area_size(56)
            .build_cartesian_2d(numbers(bars.len()).into_segmented(), 0f64..highest as f64 * 1.05)?;
        let name = |at: &SegmentValue<usize>| match at {
            SegmentValue::CenterOf(n) => names.get(*n).map_or(String::new(), |name| name.as_ref().to_owned()),
            _ => String::new(),
        };
        style(&mut chart.configure_mesh())
            .disable_x_mesh()
            .x_labels(bars.len().clamp(1, 20))
            .x_label_formatter(&name)
            .y_labels(6)
            .y_label_formatter(&|count| format!("{count:.0}"))
            .draw()?;
        // With more of them, a bar would be narrower than the gaps beside it.
        let gap = if bars.len() > 100 { 0 } else { GAP };
        for (n, parts) in bars.iter().enumerate() {
            let mut from = 0.0;
            for (&count, colour) in parts.iter().zip(colours) {
                let to = from + count as f64;
                let corners = [(SegmentValue::Exact(n), from), (SegmentValue::Exact(n + 1), to)];
                chart.draw_series([bar(corners, colour, (0, 0, gap, gap))])?;
                from = to;
            }
        }
        Ok(())
    })
}

/// The numbers of so many bars; plotters counts the end of a range in.
fn numbers(bars: usize) -> Range<usize> {
    0..bars.max(1) - 1
}
