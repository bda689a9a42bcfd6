//! Learning what a classifier says of a text, with what it thinks of the labels that lost (Hinton et al., 2015,
//! <https://arxiv.org/abs/1503.02531>).

use super::{Observer, TrainError, embedding_cache::EmbeddingCache};
use crate::{data::Row, label::Flow, model::Teacher};
use candle_core::{D, Device, Result, Tensor};

/// Teacher and student are compared at this temperature, at which labels that lost still have something to say.
const TEMPERATURE: f64 = 2.0;
/// Texts that the usual length of pooled vectors is measured on.
const LENGTH_OF: usize = 512;

/// The labels of a teacher that is a classifier, from its embeddings.
pub(super) struct SoftLabels<'a> {
    teacher: &'a Teacher,
    /// The usual length of a pooled vector: an embedding, which has length 1, times this goes into the head.
    length: f32,
}

impl<'a> SoftLabels<'a> {
    /// `texts` are those to learn from, of which some are looked at.
    pub(super) fn new(teacher: &'a Teacher, texts: &[(Option<Flow>, &str)]) -> Result<Self> {
        let some = texts.iter().step_by(texts.len().div_ceil(LENGTH_OF).max(1));
        let lengths = some
            .map(|(flow, text)| teacher.mean_length(&[&teacher.token_ids(*flow, text)]))
            .collect::<Result<Vec<f32>>>()?;
        Ok(SoftLabels { teacher, length: lengths.iter().sum::<f32>() / lengths.len().max(1) as f32 })
    }

    /// The teacher's logits, `texts x labels`, from its embeddings.
    pub(super) fn logits(&self, embeddings: &[Vec<f32>], device: &Device) -> Result<Tensor> {
        let pooled: Vec<f32> = embeddings.iter().flatten().map(|x| x * self.length).collect();
        self.teacher.head(&Tensor::from_vec(pooled, (embeddings.len(), self.teacher.width()), device)?)
    }
}

/// The divergence of a student's labels from a teacher's, one value for each text, from logits, `texts x labels`. It is
/// scaled so that its gradient is about as large as that of the cross entropy.
pub(super) fn divergence(teacher: &Tensor, student: &Tensor) -> Result<Tensor> {
    let softened = |logits: &Tensor| candle_nn::ops::log_softmax(&(logits / TEMPERATURE)?, D::Minus1);
    let theirs = softened(teacher)?.detach();
    let divergence = (theirs.exp()? * (theirs - softened(student)?)?)?.sum(D::Minus1)?;
    divergence * (TEMPERATURE * TEMPERATURE)
}

/// The teacher's logits for each row of a training run.
pub(super) fn of_rows(
    teacher: &Teacher,
    rows: &[&Row],
    observer: &mut dyn Observer,
) -> std::result::Result<Vec<Vec<f32>>, TrainError> {
    let texts: Vec<(Option<Flow>, &str)> = rows.iter().map(|row| (row.context, row.text.as_str())).collect();
    let mut cache = EmbeddingCache::in_memory(teacher.width());
    cache.fill(teacher, texts.iter().copied(), observer)?;
    let labels = SoftLabels::new(teacher, &texts)?;
    let places = texts.iter().filter_map(|(flow, text)| cache.place(teacher, *flow, text));
    let embeddings: Vec<Vec<f32>> = places.map(|place| cache.read(place)).collect::<std::result::Result<_, _>>()?;
    Ok(labels.logits(&embeddings, teacher.device())?.to_vec2()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Var;

    #[test]
    fn the_divergence_pulls_the_student_towards_its_teacher() {
        let theirs = Tensor::new(&[[2.0f32, 0.0, -1.0], [0.0, 0.0, 3.0]], &Device::Cpu).unwrap();
        // The same probabilities, and others.
        let student = Var::new(&[[3.0f32, 1.0, 0.0], [1.0, -1.0, 0.0]], &Device::Cpu).unwrap();
        let divergence = divergence(&theirs, &student).unwrap();
        let values: Vec<f32> = divergence.to_vec1().unwrap();
        assert!(values[0].abs() < 1e-5 && values[1] > 0.5, "{values:?}");
        let gradients = divergence.sum_all().unwrap().backward().unwrap();
        let gradient: Vec<Vec<f32>> = gradients.get(&student).unwrap().to_vec2().unwrap();
        assert!(gradient[0].iter().all(|g| g.abs() < 1e-5), "nothing to learn: {gradient:?}");
        assert!(gradient[1][0] > 0.0 && gradient[1][2] < 0.0, "{gradient:?}");
    }
}
