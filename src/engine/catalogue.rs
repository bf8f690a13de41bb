//! Custom policies and merge strategies that this process has been given, which the manifest cannot hold, and what
//! follows from them for a keyspace.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    locks::{Lock, LockOrder, Rank},
    options::KeyspaceOptions,
};
use crate::{
    base::{Error, KeyspaceId, PLACES, Result, Seqno, TIMELINE},
    compaction::Policy,
    manifest::{KeyspaceVersion, StoredOptions, StoredPolicy},
    merge::{MergeStrategy, name_of},
};

/// A keyspace as its readers hold it.
#[derive(Clone, Debug)]
pub(crate) struct KeyspaceRef {
    pub(crate) id: KeyspaceId,
    pub(crate) born: Seqno,
    pub(crate) strategy: MergeStrategy,
    /// Number of its dedup scope.
    pub(crate) scope: u32,
    /// Name it was opened with, even if it has been dropped.
    pub(crate) name: Arc<str>,
}

impl KeyspaceRef {
    fn new(keyspace: &KeyspaceVersion, strategy: MergeStrategy) -> Self {
        let KeyspaceVersion { id, born, ref options, ref name, .. } = *keyspace;
        Self { id, born, strategy, scope: options.scope, name: name.as_str().into() }
    }

    /// Returns what stands for a keyspace where there is none: chunks of the default scope, in no value.
    pub(crate) fn of_chunks() -> Self {
        let (strategy, name) = (MergeStrategy::LastWins, Arc::from("chunks"));
        Self { id: PLACES, born: Seqno(0), strategy, scope: 0, name }
    }

    /// Adds the name of the keyspace to an error that names a key.
    #[cold]
    pub(crate) fn named(&self, error: Error) -> Error {
        match error {
            Error::Invalid { what } => Error::invalid(format!("keyspace \"{}\": {what}", self.name.escape_debug())),
            other => other,
        }
    }

    /// Adds key and keyspace to any error about a key, for reads of several keys.
    #[cold]
    pub(crate) fn of_key(&self, key: &[u8], error: Error) -> Error {
        match error {
            Error::Invalid { .. } => self.named(error),
            other => self.named(Error::invalid(format!("key \"{}\": {}", key.escape_ascii(), other.in_full()))),
        }
    }
}

/// Returns the error for a dropped keyspace.
#[cold]
pub(super) fn dropped(keyspace: &KeyspaceRef) -> Error {
    let name = keyspace.name.escape_debug();
    Error::invalid(format!("keyspace \"{name}\" was dropped; get a new one of this name from `Db::keyspace`"))
}

/// Returns those of the registered seqnos, ascending, at which a keyspace with this birth and drop can be read.
pub(super) fn readers_of(born: Seqno, dropped: Seqno, registered: &[Seqno]) -> &[Seqno] {
    let place = |seqno: Seqno| registered.partition_point(|registered| *registered < seqno);
    registered.get(place(born)..place(dropped)).unwrap_or_default()
}

/// The custom policies and strategies that this process has been given.
#[derive(Debug)]
pub(crate) struct Catalogue {
    policies: Lock<BTreeMap<KeyspaceId, Policy>>,
    strategies: Lock<BTreeMap<KeyspaceId, MergeStrategy>>,
}

impl Catalogue {
    pub(super) fn new(order: LockOrder) -> Self {
        Self {
            policies: order.lock(Rank::Policies, BTreeMap::new()),
            strategies: order.lock(Rank::Strategies, BTreeMap::new()),
        }
    }

    /// Returns the policy of a keyspace.
    pub(super) fn policy_of(&self, keyspace: &KeyspaceVersion) -> Policy {
        Policy::of(&keyspace.options.policy, self.policies.lock().get(&keyspace.id))
    }

    /// Returns the merge strategy of a keyspace; `None` for a custom one that this process has not been given.
    pub(super) fn strategy_of(&self, keyspace: &KeyspaceVersion) -> Option<MergeStrategy> {
        MergeStrategy::built_in(keyspace.options.merge).or_else(|| self.strategies.lock().get(&keyspace.id).cloned())
    }

    /// Returns whether entries of a keyspace carry their time.
    pub(super) fn keeps_time(&self, keyspace: &KeyspaceVersion) -> bool {
        keyspace.id == TIMELINE || self.policy_of(keyspace).keeps_history() || !keyspace.options.ttls.is_empty()
    }

    /// Returns a keyspace as its readers hold it.
    pub(crate) fn keyspace_ref(&self, keyspace: &KeyspaceVersion) -> Result<KeyspaceRef> {
        let strategy = self.strategy_of(keyspace).ok_or_else(|| {
            let StoredOptions { merge, merge_name, .. } = &keyspace.options;
            Error::invalid(format!(
                "keyspace \"{}\" has the merge strategy {}, which this process has not been given; open it by `Db::keyspace` first",
                keyspace.name,
                name_of(*merge, merge_name)
            ))
        })?;
        Ok(KeyspaceRef::new(keyspace, strategy))
    }

    /// Returns a keyspace if its merge strategy is the one that was asked for, and keeps its custom policy and
    /// strategy.
    pub(super) fn give(&self, keyspace: &KeyspaceVersion, options: &KeyspaceOptions) -> Result<KeyspaceRef> {
        if let Some(policy) = &options.policy
            && matches!(policy.stored(), StoredPolicy::Custom(_))
        {
            // The one given last is used. The one before is dropped outside the lock, since that runs code of the user.
            let before = self.policies.lock().insert(keyspace.id, policy.clone());
            drop(before);
        }
        let StoredOptions { merge, merge_name, .. } = &keyspace.options;
        let given = match (&options.merge, MergeStrategy::built_in(*merge)) {
            (None, Some(stored)) => return Ok(KeyspaceRef::new(keyspace, stored)),
            (None, None) => None,
            (Some(given), _) if (given.number(), given.custom_name()) == (*merge, merge_name) => {
                let mut strategy = given.clone();
                if matches!(given, MergeStrategy::Custom(_)) {
                    // All handles use the one given first.
                    strategy = self.strategies.lock().entry(keyspace.id).or_insert(strategy).clone();
                }
                return Ok(KeyspaceRef::new(keyspace, strategy));
            }
            (Some(given), _) => Some(given.name()),
        };
        let given = given.map_or_else(|| "none was given".to_owned(), |given| format!("{given} was given"));
        Err(Error::invalid(format!(
            "keyspace \"{}\" has the merge strategy {}, but {given}; open it with the one it was created with",
            keyspace.name,
            name_of(*merge, merge_name)
        )))
    }
}
