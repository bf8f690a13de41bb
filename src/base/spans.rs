//! A map from keys to values that is written span by span; the last write to each key counts.

use std::{collections::BTreeMap, ops::Bound};

use super::KeySpan;

/// A value for each key of the spans inserted. A span replaces what it overlaps, so each costs O(log n) amortised.
#[derive(Clone, Debug)]
pub(crate) struct SpanMap<V> {
    /// End and value of each span, by its start; none overlap.
    spans: BTreeMap<Vec<u8>, (Option<Vec<u8>>, V)>,
}

impl<V> Default for SpanMap<V> {
    fn default() -> Self {
        Self { spans: BTreeMap::new() }
    }
}

impl<V: Clone> SpanMap<V> {
    /// Sets the value of every key in a span.
    pub(crate) fn insert(&mut self, span: &KeySpan, value: V) {
        if span.is_empty() {
            return;
        }
        let KeySpan { start, end } = span;
        // A span that reaches in from the left ends here; what reaches past the end goes on behind it.
        let mut behind = None;
        if let Some((_, (before, value))) = self.spans.range_mut::<[u8], _>(upto(start)).next_back()
            && before.as_ref().is_none_or(|before| before > start)
        {
            let reach = before.replace(start.clone());
            behind = Some((reach, value.clone()));
        }
        while let Some((next, _)) =
            self.spans.range::<[u8], _>((Bound::Included(start.as_slice()), Bound::Unbounded)).next()
            && end.as_ref().is_none_or(|end| next < end)
        {
            let next = next.clone();
            behind = self.spans.remove(&next);
        }
        if let (Some(end), Some((reach, value))) = (end, behind)
            && reach.as_ref().is_none_or(|reach| reach > end)
        {
            self.spans.insert(end.clone(), (reach, value));
        }
        self.spans.insert(start.clone(), (end.clone(), value));
    }

    /// Returns the value last set for a key.
    pub(crate) fn get(&self, key: &[u8]) -> Option<&V> {
        let (_, (end, value)) = self.spans.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back()?;
        end.as_deref().is_none_or(|end| key < end).then_some(value)
    }
}

fn upto(key: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, Bound::Excluded(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_each_key_counts() {
        let mut state = 7u64;
        let mut draw = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        for _ in 0..200 {
            let mut map = SpanMap::default();
            let mut told: Vec<(KeySpan, usize)> = Vec::new();
            for word in 0..30 {
                let (a, b) = (u8::try_from(draw(20)).unwrap(), u8::try_from(draw(24)).unwrap());
                let span = KeySpan { start: vec![a], end: (b < 20).then(|| vec![b]) };
                map.insert(&span, word);
                told.push((span, word));
                for key in 0..22u8 {
                    let last = told.iter().rfind(|(span, _)| span.holds(&[key])).map(|(_, word)| word);
                    assert_eq!(map.get(&[key]), last, "{told:?} at {key}");
                }
            }
            assert!(map.spans.len() <= 61);
        }
    }
}
