//! A circuit breaker: while a pool's workers keep failing, calls are refused at once instead of
//! being sent to fail.

use std::collections::VecDeque;

use ostler_core::moment::Moment;
use ostler_core::spec::Breaker as Rules;

/// How a call ended, as far as the breaker is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The worker answered, whatever the answer.
    Answered,
    /// It was lost with the call, or the call had no answer in time.
    Failed,
    /// It says nothing about the worker: the call was not sent, or its caller gave up.
    Neutral,
}

/// The state of a circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Calls pass.
    Closed,
    /// Calls are refused.
    Open,
    /// One call at a time is let through to see whether the workers answer again.
    HalfOpen,
}

/// A change of state, to be published as an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Opened,
    Closed,
}

/// Permission for one call. It names the period of the breaker's life that it was given in: what it
/// reports later counts only if that has not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Permit {
    period: u64,
    trial: bool,
}

impl Permit {
    /// Whether its call shows if the breaker may close.
    pub(crate) fn is_trial(self) -> bool {
        self.trial
    }
}

/// The state of one pool's breaker.
#[derive(Debug)]
pub(crate) struct Breaker {
    rules: Rules,
    state: BreakerState,
    /// Changes with each state.
    period: u64,
    until: Moment,
    trial_under_way: bool,
    in_a_row: u32,
    /// Ends within the window, for the rate.
    recent: VecDeque<(Moment, bool)>,
    recent_failures: usize,
}

impl Breaker {
    pub(crate) fn new(rules: Rules) -> Self {
        Self {
            rules,
            state: BreakerState::Closed,
            period: 0,
            until: Moment::ORIGIN,
            trial_under_way: false,
            in_a_row: 0,
            recent: VecDeque::new(),
            recent_failures: 0,
        }
    }

    pub(crate) fn state(&self) -> BreakerState {
        self.state
    }

    /// Permission for a call, or the moment from which it is worth asking again.
    pub(crate) fn permit(&mut self, now: Moment) -> Result<Permit, Moment> {
        match self.state {
            BreakerState::Closed => {}
            BreakerState::Open if now < self.until => return Err(self.until),
            BreakerState::Open => self.enter(BreakerState::HalfOpen),
            BreakerState::HalfOpen => {}
        }
        if self.state == BreakerState::Closed {
            return Ok(Permit {
                period: self.period,
                trial: false,
            });
        }
        if self.trial_under_way {
            return Err(now + self.rules.open / 10);
        }
        self.trial_under_way = true;
        Ok(Permit {
            period: self.period,
            trial: true,
        })
    }

    /// A call that had permission has ended. Every permit must come back here, or a trial would
    /// stay under way forever.
    pub(crate) fn report(&mut self, permit: Permit, verdict: Verdict, now: Moment) -> Option<Change> {
        if permit.period != self.period {
            return None;
        }
        if permit.trial {
            self.trial_under_way = false;
            return match verdict {
                Verdict::Answered => {
                    self.enter(BreakerState::Closed);
                    Some(Change::Closed)
                }
                // It stays open, which was reported already.
                Verdict::Failed => {
                    self.open(now);
                    None
                }
                Verdict::Neutral => None,
            };
        }
        self.count(verdict, now);
        let trips = self.trips();
        trips.then(|| {
            self.open(now);
            Change::Opened
        })
    }

    fn count(&mut self, verdict: Verdict, now: Moment) {
        let failed = match verdict {
            Verdict::Neutral => return,
            Verdict::Answered => false,
            Verdict::Failed => true,
        };
        self.in_a_row = if failed { self.in_a_row + 1 } else { 0 };
        let Some(rate) = self.rules.rate else { return };
        self.recent.push_back((now, failed));
        self.recent_failures += usize::from(failed);
        while let Some((at, failed)) = self.recent.front().copied()
            && now.since(at) > rate.window
        {
            self.recent.pop_front();
            self.recent_failures -= usize::from(failed);
        }
    }

    fn trips(&self) -> bool {
        if self.rules.failures > 0 && self.in_a_row >= self.rules.failures {
            return true;
        }
        self.rules.rate.is_some_and(|rate| {
            let calls = self.recent.len();
            calls >= rate.calls as usize && self.recent_failures as f64 >= rate.share * calls as f64
        })
    }

    fn open(&mut self, now: Moment) {
        self.enter(BreakerState::Open);
        self.until = now + self.rules.open;
    }

    fn enter(&mut self, state: BreakerState) {
        self.state = state;
        self.period += 1;
        self.trial_under_way = false;
        self.in_a_row = 0;
        self.recent.clear();
        self.recent_failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ostler_core::spec::FailureRate;
    use proptest::prelude::*;

    use super::*;

    fn rules() -> Rules {
        Rules::default().failures(3).open(Duration::from_secs(30))
    }

    fn at(secs: u64) -> Moment {
        Moment::after_origin(Duration::from_secs(secs))
    }

    fn call(breaker: &mut Breaker, secs: u64, verdict: Verdict) -> Option<Change> {
        let permit = breaker.permit(at(secs)).expect("it is let through");
        breaker.report(permit, verdict, at(secs))
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_answer_closes_it() {
        let mut breaker = Breaker::new(rules());
        assert_eq!(call(&mut breaker, 0, Verdict::Failed), None);
        assert_eq!(call(&mut breaker, 0, Verdict::Failed), None);
        assert_eq!(call(&mut breaker, 0, Verdict::Answered), None);
        assert_eq!(call(&mut breaker, 1, Verdict::Failed), None);
        assert_eq!(call(&mut breaker, 1, Verdict::Failed), None);
        assert_eq!(call(&mut breaker, 1, Verdict::Failed), Some(Change::Opened));
        assert_eq!(breaker.permit(at(30)), Err(at(31)));
        let trial = breaker.permit(at(31)).expect("a trial");
        assert!(breaker.permit(at(31)).is_err(), "one trial at a time");
        assert_eq!(breaker.report(trial, Verdict::Failed, at(32)), None);
        assert_eq!(breaker.permit(at(61)), Err(at(62)), "open for its whole time again");
        assert_eq!(call(&mut breaker, 62, Verdict::Answered), Some(Change::Closed));
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[test]
    fn a_trial_whose_caller_gave_up_makes_room_for_another() {
        let mut breaker = Breaker::new(rules());
        for _ in 0..3 {
            call(&mut breaker, 0, Verdict::Failed);
        }
        assert_eq!(call(&mut breaker, 40, Verdict::Neutral), None);
        assert_eq!(breaker.state(), BreakerState::HalfOpen);
        assert_eq!(call(&mut breaker, 40, Verdict::Answered), Some(Change::Closed));
    }

    #[test]
    fn a_late_report_of_an_earlier_period_counts_for_nothing() {
        let mut breaker = Breaker::new(rules());
        let slow = breaker.permit(at(0)).expect("it is closed");
        for _ in 0..3 {
            call(&mut breaker, 0, Verdict::Failed);
        }
        assert_eq!(breaker.report(slow, Verdict::Answered, at(1)), None);
        assert_eq!(breaker.state(), BreakerState::Open);
    }

    #[test]
    fn a_share_of_failures_opens_it_though_none_follow_each_other() {
        let rate = FailureRate::default()
            .share(0.5)
            .window(Duration::from_secs(10))
            .calls(10);
        let mut breaker = Breaker::new(rules().rate(rate).failures(0));
        let ends = [Verdict::Failed, Verdict::Answered];
        for (nth, verdict) in ends.iter().cycle().take(9).enumerate() {
            assert_eq!(call(&mut breaker, nth as u64 / 2, *verdict), None, "too few calls");
        }
        assert_eq!(call(&mut breaker, 5, Verdict::Answered), Some(Change::Opened));
        let mut breaker = Breaker::new(rules().rate(rate).failures(0));
        for secs in 0..100 {
            assert_eq!(
                call(&mut breaker, 20 * secs, Verdict::Failed),
                None,
                "each is alone in its window"
            );
        }
    }

    proptest! {
        /// Open means open: no call passes before its time, and never two trials at once.
        #[test]
        fn never_lets_through_more_than_it_may(steps in prop::collection::vec((0u8..5, 0u64..40), 1..200)) {
            let mut breaker = Breaker::new(rules());
            let (mut now, mut opened, mut held) = (0, None, Vec::new());
            for (what, wait) in steps {
                match what {
                    0 | 1 => if let Ok(permit) = breaker.permit(at(now)) {
                        if permit.trial {
                            prop_assert!(opened.is_none_or(|opened| now >= opened + 30));
                            prop_assert!(!held.iter().any(|other: &Permit| other.trial && other.period == permit.period));
                        }
                        held.push(permit);
                    },
                    2 => now += wait,
                    verdict => if let Some(permit) = held.pop() {
                        let verdict = if verdict == 3 { Verdict::Failed } else { Verdict::Answered };
                        let period = breaker.period;
                        breaker.report(permit, verdict, at(now));
                        if breaker.state() == BreakerState::Open && period != breaker.period {
                            opened = Some(now);
                        }
                    }
                }
            }
        }
    }
}
