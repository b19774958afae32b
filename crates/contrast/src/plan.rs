//! The order of a measurement: every arm in turn, in an order that changes from round to round and yet can be
//! had again, because it comes from a seed.

use std::collections::BTreeSet;
use std::fmt;

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// What the page cache holds when a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cache {
    /// What earlier runs have read.
    Warm,
    /// Nothing that can be dropped.
    Cold,
}

/// Under what circumstances an arm is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Circumstances {
    /// The page cache.
    pub cache: Cache,
    /// How many are started at once.
    pub parallel: usize,
}

impl fmt::Display for Circumstances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.parallel {
            1 => write!(f, "alone")?,
            parallel => write!(f, "{parallel} at once")?,
        }
        write!(f, "{}", if self.cache == Cache::Cold { ", cold" } else { "" })
    }
}

/// Who has a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    /// The arm of this number.
    Arm(usize),
    /// A process that does nothing, to notice a machine that changes its pace.
    Control,
}

impl Who {
    /// The arm, if it is one.
    pub const fn arm(self) -> Option<usize> {
        match self {
            Self::Arm(arm) => Some(arm),
            Self::Control => None,
        }
    }
}

/// One turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Who has it.
    pub who: Who,
    /// How it is run.
    pub circumstances: Circumstances,
    /// The round, from 0; `None` for one that does not count.
    pub round: Option<usize>,
}

/// What is measured, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// What the order comes from.
    pub seed: u64,
    /// Turns of each arm that do not count.
    pub warm_ups: usize,
    /// Turns of each arm that count.
    pub runs: usize,
    /// How many are started at once, in each of these ways.
    pub parallel: Vec<usize>,
    /// The states of the page cache.
    pub caches: Vec<Cache>,
}

impl Plan {
    /// All turns of `arms` arms and the control, in order. Rounds are of one kind each, the lightest first: what
    /// many at once push out of memory, or a cold page cache lacks, is not missed by those alone.
    pub fn turns(&self, arms: usize) -> Vec<Turn> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        let alone = Circumstances { cache: Cache::Warm, parallel: 1 };
        let everybody: Vec<Who> = (0..arms).map(Who::Arm).chain([Who::Control]).collect();
        let mut turns = vec![];
        for _ in 0..self.warm_ups {
            let warm_up = |who: &Who| Turn { who: *who, circumstances: alone, round: None };
            turns.extend(everybody.iter().map(warm_up));
        }
        for circumstances in self.circumstances() {
            for round in 0..self.runs {
                let turn = |who: &Who| Turn { who: *who, circumstances, round: Some(round) };
                let mut turns_of_round: Vec<Turn> = everybody.iter().map(turn).collect();
                turns_of_round.shuffle(&mut random);
                turns.extend(turns_of_round);
            }
        }
        turns
    }

    fn circumstances(&self) -> BTreeSet<Circumstances> {
        let with = |cache: &Cache| {
            let cache = *cache;
            self.parallel.iter().map(move |parallel| Circumstances { cache, parallel: *parallel })
        };
        self.caches.iter().flat_map(with).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64) -> Plan {
        let caches = vec![Cache::Cold, Cache::Warm];
        Plan { seed, warm_ups: 1, runs: 10, parallel: vec![1, 4], caches }
    }

    #[test]
    fn every_arm_has_its_turn_in_every_round() {
        let turns = plan(1).turns(3);
        assert_eq!(turns.len(), 4 + 2 * 2 * 10 * 4);
        let warm_ups: Vec<_> = turns.iter().take_while(|turn| turn.round.is_none()).collect();
        assert_eq!(warm_ups.len(), 4);
        for round in turns.get(4..).unwrap().chunks(4) {
            let of = |turn: &Turn| (turn.round, turn.circumstances);
            let first = of(round.first().unwrap());
            assert!(round.iter().all(|turn| of(turn) == first), "rounds do not mix");
            assert_eq!(round.iter().map(|turn| turn.who).collect::<BTreeSet<_>>().len(), 4);
        }
    }

    #[test]
    fn same_seed_has_the_same_order_and_another_has_another() {
        assert_eq!(plan(1).turns(3), plan(1).turns(3));
        assert_ne!(plan(1).turns(3), plan(2).turns(3));
    }

    #[test]
    fn no_arm_always_comes_first() {
        let turns = plan(3).turns(2);
        let counted: Vec<_> = turns.iter().filter(|turn| turn.round.is_some()).collect();
        let firsts: BTreeSet<_> =
            counted.chunks(3).map(|round| round.first().unwrap().who).collect();
        assert_eq!(firsts.len(), 3);
    }

    #[test]
    fn warm_rounds_come_before_cold_ones_and_those_alone_before_several_at_once() {
        let all: Vec<_> = plan(1).turns(1).iter().map(|turn| turn.circumstances).collect();
        assert!(all.is_sorted());
    }
}
