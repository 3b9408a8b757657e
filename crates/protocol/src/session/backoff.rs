//! Waiting before another try: exponential, with full jitter and a ceiling. The randomness and the
//! time are the caller's.

use anabranch_crdt::Millis;

use crate::limits::{RETRY_BASE_MS, RETRY_CEILING_MS};

/// How to try again after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// The first wait is drawn from zero to this; the bound then doubles.
    pub base_ms: u64,
    /// No wait is longer.
    pub ceiling_ms: u64,
    /// After how many failures in a row not to try any more; `None` to go on for ever.
    pub attempts_max: Option<u32>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            base_ms: RETRY_BASE_MS,
            ceiling_ms: RETRY_CEILING_MS,
            attempts_max: None,
        }
    }
}

/// How many tries have failed in a row, and so how long to wait. After "Exponential Backoff And
/// Jitter" (AWS, 2015): the wait is drawn evenly from zero to the doubled bound, so that a crowd of
/// replicas that lost the service together does not come back together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    policy: RetryPolicy,
    failures: u32,
}

impl Backoff {
    /// Nothing has failed yet.
    pub const fn new(policy: RetryPolicy) -> Self {
        Self {
            policy,
            failures: 0,
        }
    }

    /// Notes a failure at `now` and tells when to try again. `random` is a draw over all of `u64`.
    pub fn failed(&mut self, now: Millis, random: u64) -> Millis {
        let factor = 1_u64.checked_shl(self.failures).unwrap_or(u64::MAX);
        let doubled = self.policy.base_ms.saturating_mul(factor);
        let bound_ms = doubled.min(self.policy.ceiling_ms);
        self.failures = self.failures.saturating_add(1);
        Millis(now.0.saturating_add(random % bound_ms.saturating_add(1)))
    }

    /// Notes a success: the next failure is the first again.
    pub const fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Whether as many have failed as the policy allows.
    pub const fn is_exhausted(&self) -> bool {
        match self.policy.attempts_max {
            Some(most) => self.failures >= most,
            None => false,
        }
    }

    /// How many tries have failed in a row.
    pub const fn failures(&self) -> u32 {
        self.failures
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_ceiling_and_start_over_after_a_success() {
        let mut backoff = Backoff::default();
        let wait = |backoff: &mut Backoff| {
            // The largest draw shows the bound: u64::MAX modulo anything small is not it, so search.
            (0..=RETRY_CEILING_MS)
                .map(|r| {
                    let mut b = *backoff;
                    b.failed(Millis(0), r).0
                })
                .max()
        };
        assert_eq!(wait(&mut backoff), Some(RETRY_BASE_MS));
        backoff.failed(Millis(0), 0);
        assert_eq!(wait(&mut backoff), Some(RETRY_BASE_MS * 2));
        for _ in 0..200 {
            backoff.failed(Millis(0), 0);
        }
        assert_eq!(wait(&mut backoff), Some(RETRY_CEILING_MS));
        backoff.succeeded();
        assert_eq!(wait(&mut backoff), Some(RETRY_BASE_MS));
    }
}
