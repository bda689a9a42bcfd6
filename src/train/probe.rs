//! How far a linear layer on a frozen sentence encoder gets: the yardstick that shows whether a test set is easy.

use super::{
    OOS_LABEL, Observer, TrainError,
    embedding_cache::EmbeddingCache,
    labels,
    regression::{self, argmax, regress, scores},
};
use crate::{
    data::Row,
    eval::{Probe, area_under_roc},
    model::Teacher,
};
use std::path::Path;

/// Weight decays to choose from on the validation rows.
const DECAYS: [f32; 4] = [0.0, 1e-5, 1e-4, 1e-3];

/// Fits softmax regression to the teacher's embeddings of `train`, with the flow as extra inputs; chooses the weight
/// decay on `valid` and measures on `test`. `observer` hears of texts embedded; with a `cache` file, those in it are not
/// embedded again.
///
/// # Errors
/// [`TrainError`], when rows or labels are unusable, the tensor library fails, or the observer asks to stop.
pub fn probe(
    teacher: &Teacher,
    train: &[Row],
    valid: &[Row],
    test: &[Row],
    cache: Option<&Path>,
    observer: &mut dyn Observer,
) -> Result<Probe, TrainError> {
    if test.is_empty() {
        return Err(TrainError::NoRows("test"));
    }
    let labels = labels(&train.iter().collect::<Vec<_>>(), &valid.iter().chain(test).collect::<Vec<_>>())?;
    let rows: Vec<&Row> = train.iter().chain(valid).chain(test).collect();
    let mut cache = match cache {
        Some(path) => EmbeddingCache::open(path, teacher.fingerprint(), teacher.width())?,
        None => EmbeddingCache::in_memory(teacher.width()),
    };
    cache.fill(teacher, rows.iter().map(|row| (row.context, row.text.as_str())), observer)?;
    let vectors: Vec<Vec<f32>> = rows
        .iter()
        .filter_map(|row| cache.place(teacher, row.context, &row.text))
        .map(|place| cache.read(place))
        .collect::<Result<_, _>>()?;
    let inputs = regression::inputs(vectors, rows.iter().copied(), train.len());
    let gold: Vec<usize> =
        rows.iter().map(|row| labels.iter().position(|label| *label == row.label).unwrap_or(0)).collect();
    let (fit, rest) = (0..train.len(), train.len()..train.len() + valid.len());
    let tested = rest.end..rows.len();

    let mut best: Option<(usize, Vec<Vec<f32>>)> = None;
    for decay in DECAYS {
        let weights = regress(&inputs[fit.clone()], &gold[fit.clone()], labels.len(), decay);
        let hits = rest.clone().filter(|&row| argmax(&scores(&weights, &inputs[row])) == gold[row]).count();
        if best.as_ref().is_none_or(|(most, _)| hits > *most) {
            best = Some((hits, weights));
        }
    }
    let weights = best.map(|(_, weights)| weights).unwrap_or_default();
    let outcomes: Vec<(&Row, bool, f32, bool)> = tested
        .map(|row| {
            let scores = scores(&weights, &inputs[row]);
            let oos = labels.iter().position(|label| label == OOS_LABEL);
            (rows[row], argmax(&scores) == gold[row], oos.map_or(0.0, |oos| scores[oos]), Some(gold[row]) == oos)
        })
        .collect();
    let accuracy = |keep: &dyn Fn(&Row) -> bool| {
        let kept: Vec<bool> = outcomes.iter().filter(|(row, ..)| keep(row)).map(|&(_, hit, ..)| hit).collect();
        (!kept.is_empty()).then(|| kept.iter().filter(|&&hit| hit).count() as f64 / kept.len() as f64)
    };
    let side =
        |out: bool| outcomes.iter().filter(|&&(.., oos)| oos == out).map(|&(_, _, score, _)| score).collect::<Vec<_>>();
    let lang = |row: &Row| row.lang.clone().unwrap_or_else(|| "und".into());
    let codes: std::collections::BTreeSet<String> = test.iter().map(lang).collect();
    Ok(Probe {
        train_rows: train.len(),
        rows: test.len(),
        accuracy: accuracy(&|_| true).unwrap_or(0.0),
        oos_auroc: area_under_roc(&side(true), &side(false)),
        with_flow: accuracy(&|row| row.context.is_some()),
        languages: codes
            .into_iter()
            .filter_map(|code| Some((code.clone(), accuracy(&|row| lang(row) == code)?)))
            .collect(),
    })
}
