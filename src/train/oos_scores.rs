//! Which out-of-scope score separates best: class probability, energy, Mahalanobis distance, nearest neighbours, and
//! combinations, compared on rows that the model was not fitted to.

use super::{Encoding, OOS_LABEL, TrainError};
use crate::{
    data::Row,
    engine::{EncoderConfig, TensorFile},
    eval::area_under_roc,
    guard::{Bundle, GuardConfig, LoadError},
    model::{Batch, Classifier},
    tokenizer::{self, Tokenizer},
};
use candle_core::Device;
use nalgebra::{DMatrix, DVector};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

const BATCH: usize = 64;
/// Rows of the data fitted to that neighbours are looked for in: enough, and quick.
const NEIGHBOURS_IN: usize = 12_000;
/// The neighbour whose similarity counts.
const K: usize = 10;

/// How well one score separates.
#[derive(Clone, Debug, PartialEq, serde::Serialize)]
pub struct OosScore {
    /// Its name.
    pub name: &'static str,
    /// Area under the ROC curve, out-of-scope rows against the rest.
    pub auroc: f64,
    /// Share of in-scope rows that are refused when 95 % of the out-of-scope rows are.
    pub fpr_at_95: f64,
}

/// Compares scores of the model in `bundle`: fitted (where they are) to `fit`, measured on `rows`.
///
/// Mahalanobis is the distance of the pooled vector to the nearest in-scope class under a covariance that all classes share
/// (Lee et al., 2018, <https://arxiv.org/abs/1807.03888>); nearest neighbours the similarity to the tenth nearest
/// out-of-scope row less that to the tenth nearest in-scope row (after Sun et al., 2022,
/// <https://arxiv.org/abs/2204.06507>); energy that of the in-scope logits (Liu et al., 2020,
/// <https://arxiv.org/abs/2010.03759>). Combinations add up the scores, each scaled to deviation 1 on the rows.
///
/// # Errors
/// [`TrainError`], when the model does not load or has no out-of-scope label, or there are no rows on one side.
pub fn oos_scores(bundle: &Bundle<'_>, fit: &[Row], rows: &[Row]) -> Result<Vec<OosScore>, TrainError> {
    let config = EncoderConfig::from_json(&bundle.config).map_err(LoadError::from)?;
    let guard = GuardConfig::from_json(&bundle.guard).map_err(LoadError::from)?;
    let tokenizer = Tokenizer::from_json(&bundle.tokenizer)?;
    let file = TensorFile::parse(&bundle.weights).map_err(LoadError::from)?;
    let labels = config.labels();
    let oos = guard.oos_label.as_deref().unwrap_or(OOS_LABEL);
    let oos = labels
        .iter()
        .position(|label| label == oos)
        .ok_or_else(|| TrainError::NoOosRows { label: oos.to_owned(), labels: labels.join(", ") })?;
    let model = Model {
        classifier: Classifier::load(&config, &file, 0, &Device::Cpu)?,
        encoding: Encoding { tokenizer: &tokenizer, max_tokens: guard.max_tokens },
        temperature: guard.temperature,
    };
    let class = |row: &Row| labels.iter().position(|label| *label == row.label);
    let mut sample: Vec<&Row> = fit.iter().collect();
    sample.shuffle(&mut ChaCha8Rng::seed_from_u64(1));
    sample.truncate(NEIGHBOURS_IN);
    let fitted = model.run(&sample)?;
    let measured = model.run(&rows.iter().collect::<Vec<_>>())?;
    let fitted_classes: Vec<Option<usize>> = sample.iter().map(|row| class(row)).collect();
    let gold: Vec<bool> = rows.iter().map(|row| class(row) == Some(oos)).collect();
    if gold.iter().all(|&out| out) || !gold.contains(&true) {
        return Err(TrainError::NoRows("measure on, in scope or out of it"));
    }

    let probability: Vec<f64> = measured.iter().map(|output| output.log_odds(oos)).collect();
    let energy: Vec<f64> = measured.iter().map(|output| output.energy(oos)).collect();
    let mahalanobis = mahalanobis(&fitted, &fitted_classes, oos, &measured);
    let neighbours = neighbours(&fitted, &fitted_classes, oos, &measured);
    let together = |parts: &[&[f64]]| -> Vec<f64> {
        let scaled: Vec<Vec<f64>> = parts.iter().map(|part| standardized(part)).collect();
        (0..gold.len()).map(|row| scaled.iter().map(|part| part[row]).sum()).collect()
    };
    let scores = [
        ("class probability", probability.clone()),
        ("energy of the in-scope labels", energy.clone()),
        ("Mahalanobis", mahalanobis.clone()),
        ("nearest neighbours", neighbours.clone()),
        ("probability + energy", together(&[&probability, &energy])),
        ("probability + Mahalanobis", together(&[&probability, &mahalanobis])),
        ("probability + neighbours", together(&[&probability, &neighbours])),
        ("all four", together(&[&probability, &energy, &mahalanobis, &neighbours])),
    ];
    Ok(scores
        .into_iter()
        .map(|(name, scores)| {
            let side = |out: bool| -> Vec<f32> {
                scores.iter().zip(&gold).filter(|(_, gold)| **gold == out).map(|(&score, _)| score as f32).collect()
            };
            let (mut outside, inside) = (side(true), side(false));
            let auroc = area_under_roc(&outside, &inside).unwrap_or(f64::NAN);
            outside.sort_by(f32::total_cmp);
            let border = outside[outside.len() / 20];
            let refused = inside.iter().filter(|&&score| score >= border).count();
            OosScore { name, auroc, fpr_at_95: refused as f64 / inside.len() as f64 }
        })
        .collect())
}

struct Model<'a> {
    classifier: Classifier,
    encoding: Encoding<'a>,
    temperature: f32,
}

/// What the model makes of a row.
struct Output {
    pooled: Vec<f32>,
    /// Divided by the temperature.
    logits: Vec<f64>,
}

impl Output {
    fn log_sum(&self, keep: impl Fn(usize) -> bool) -> f64 {
        let kept = || self.logits.iter().enumerate().filter(|(class, _)| keep(*class)).map(|(_, &logit)| logit);
        let highest = kept().fold(f64::NEG_INFINITY, f64::max);
        highest + kept().map(|logit| (logit - highest).exp()).sum::<f64>().ln()
    }

    /// As good as the probability of the class for ranking, and not squeezed at its ends.
    fn log_odds(&self, oos: usize) -> f64 {
        self.logits[oos] - self.log_sum(|class| class != oos)
    }

    fn energy(&self, oos: usize) -> f64 {
        -self.log_sum(|class| class != oos)
    }
}

impl Model<'_> {
    fn run(&self, rows: &[&Row]) -> Result<Vec<Output>, TrainError> {
        let scratch = &mut tokenizer::Scratch::default();
        let mut ids: Vec<(usize, Vec<u32>)> =
            rows.iter().map(|row| self.encoding.ids(row.context, &row.text, scratch)).enumerate().collect();
        ids.sort_by_key(|(_, ids)| ids.len());
        let mut outputs: Vec<(usize, Output)> = Vec::new();
        for chunk in ids.chunks(BATCH) {
            let batch = Batch::new(chunk.iter().map(|(_, ids)| ids.as_slice()), &Device::Cpu)?;
            let pooled = self.classifier.embed(&batch)?;
            let logits: Vec<Vec<f32>> = self.classifier.head(&pooled, None)?.to_vec2()?;
            for (((row, _), pooled), logits) in chunk.iter().zip(pooled.to_vec2::<f32>()?).zip(logits) {
                let logits = logits.into_iter().map(|logit| f64::from(logit / self.temperature)).collect();
                outputs.push((*row, Output { pooled, logits }));
            }
        }
        outputs.sort_by_key(|(row, _)| *row);
        Ok(outputs.into_iter().map(|(_, output)| output).collect())
    }
}

fn standardized(values: &[f64]) -> Vec<f64> {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let deviation = (values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count).sqrt().max(1e-12);
    values.iter().map(|x| (x - mean) / deviation).collect()
}

/// The distance to the nearest in-scope class.
fn mahalanobis(fitted: &[Output], classes: &[Option<usize>], oos: usize, rows: &[Output]) -> Vec<f64> {
    let width = fitted.first().map_or(0, |output| output.pooled.len());
    let vector = |output: &Output| DVector::from_iterator(width, output.pooled.iter().map(|&x| f64::from(x)));
    let count_of_classes = classes.iter().flatten().max().map_or(0, |most| most + 1);
    let mut means = vec![(DVector::<f64>::zeros(width), 0usize); count_of_classes];
    for (output, class) in fitted.iter().zip(classes) {
        if let Some(class) = *class {
            means[class].0 += vector(output);
            means[class].1 += 1;
        }
    }
    let means: Vec<DVector<f64>> = means.into_iter().map(|(sum, count)| sum / count.max(1) as f64).collect();
    let mut covariance = DMatrix::<f64>::identity(width, width) * 1e-3;
    for (output, class) in fitted.iter().zip(classes) {
        if let Some(class) = *class {
            let from = vector(output) - &means[class];
            covariance.ger(1.0 / fitted.len() as f64, &from, &from, 1.0);
        }
    }
    let Some(cholesky) = covariance.cholesky() else { return vec![0.0; rows.len()] };
    rows.iter()
        .map(|output| {
            let x = vector(output);
            (0..means.len())
                .filter(|&class| class != oos)
                .map(|class| {
                    let from = &x - &means[class];
                    from.dot(&cholesky.solve(&from))
                })
                .fold(f64::INFINITY, f64::min)
        })
        .collect()
}

/// By how much the out-of-scope neighbours are nearer than those in scope.
fn neighbours(fitted: &[Output], classes: &[Option<usize>], oos: usize, rows: &[Output]) -> Vec<f64> {
    let unit = |output: &Output| -> Vec<f32> {
        let length = output.pooled.iter().map(|x| x * x).sum::<f32>().sqrt().max(1e-6);
        output.pooled.iter().map(|x| x / length).collect()
    };
    let known: Vec<(Vec<f32>, bool)> =
        fitted.iter().zip(classes).map(|(output, class)| (unit(output), *class == Some(oos))).collect();
    rows.iter()
        .map(|output| {
            let x = unit(output);
            let (mut outside, mut inside): (Vec<f32>, Vec<f32>) = (Vec::new(), Vec::new());
            for (y, out) in &known {
                let similarity = x.iter().zip(y).map(|(x, y)| x * y).sum();
                if *out { outside.push(similarity) } else { inside.push(similarity) }
            }
            let kth = |mut similarities: Vec<f32>| {
                let at = K.min(similarities.len()).saturating_sub(1);
                if similarities.is_empty() {
                    -1.0
                } else {
                    *similarities.select_nth_unstable_by(at, |a, b| b.total_cmp(a)).1
                }
            };
            f64::from(kth(outside) - kth(inside))
        })
        .collect()
}
