//! Makes a history that fails shorter, while it still fails.

use std::{
    env::var,
    fmt::Write as _,
    time::{Duration, Instant},
};

use crate::script::{History, Op};

impl History {
    fn fails(&self) -> bool {
        // With threads a failure does not always come back.
        let like = var("CHRONOLITH_MODEL_LIKE").unwrap_or_default();
        (0..if self.threads { 5 } else { 1 }).any(|_| self.run().2.is_err_and(|wrong| wrong.contains(&like)))
    }

    /// Leaves out what the failure does not need: halves first, single operations last, then parts of batches and
    /// operands.
    fn shrink(mut self) -> Self {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let before = self.ops.len();
            let mut chunk = self.ops.len().div_ceil(2);
            while chunk > 0 {
                let mut at = 0;
                while at < self.ops.len() && Instant::now() < end {
                    let mut fewer = self.clone();
                    fewer.ops.drain(at..(at + chunk).min(self.ops.len()));
                    if fewer.fails() {
                        self = fewer;
                    } else {
                        at += chunk;
                    }
                }
                chunk /= 2;
            }
            if self.ops.len() == before || Instant::now() >= end {
                break;
            }
        }
        for at in 0..self.ops.len() {
            let mut part = 0;
            while let Some(Op::Batch { writes, .. }) = self.ops.get(at)
                && part < writes.len()
            {
                let mut fewer = self.clone();
                if let Some(Op::Batch { writes, .. }) = fewer.ops.get_mut(at) {
                    drop(writes.remove(part));
                }
                if fewer.fails() { self = fewer } else { part += 1 }
            }
            for fewer_by in [usize::MAX, 100, 10, 1] {
                while let Some(Op::Operands { count, .. }) = self.ops.get(at)
                    && *count > 1
                    && Instant::now() < end
                {
                    let mut fewer = self.clone();
                    if let Some(Op::Operands { count, .. }) = fewer.ops.get_mut(at) {
                        *count -= fewer_by.min(count.div_ceil(2)).min(*count - 1);
                    }
                    if !fewer.fails() {
                        break;
                    }
                    self = fewer;
                }
            }
        }
        self
    }

    pub(crate) fn report(self, first: &str) -> String {
        let shrunk = self.shrink();
        let mut run = shrunk.run();
        for _ in 0..20 {
            if run.2.is_ok() {
                run = shrunk.run();
            }
        }
        let (words, _, outcome) = run;
        let wrong = outcome.err().unwrap_or_else(|| "this time nothing was wrong".to_owned());
        let mut report = format!("seed {}, {:?}: {first}\n\nThe shortest script found:\n", shrunk.seed, shrunk.setup);
        for line in &words {
            let _infallible = writeln!(report, "  {line}");
        }
        report + "  => " + &wrong
    }
}
