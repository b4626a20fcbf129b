//! The components of a node's clusters: kept as files, compiled once, shared by all peers that run them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::machine::{BackendFactory, Genesis, Machine, StartError};
use crate::store::{Components, StoreError};
use crate::types::Digest;
use crate::wasm::{ComponentError, Wasm, WasmBackend};

/// Why a component cannot be run here.
#[derive(Debug, thiserror::Error)]
pub(super) enum BackendError {
    /// The component is to blame.
    #[error(transparent)]
    Component(#[from] ComponentError),
    /// The component refused the cluster's config, or died of it.
    #[error(transparent)]
    Start(#[from] StartError),
    /// This node is to blame.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This node's cache of compiled components is to blame.
    #[error("cannot tidy the compiled components: {0}")]
    Cache(#[from] std::io::Error),
}

/// The components of one node.
pub(super) struct Backends {
    wasm: Wasm,
    files: Components,
    compiled: Mutex<BTreeMap<Digest, WasmBackend>>,
    /// What runs in the place of components.
    native: BTreeMap<Digest, Arc<dyn BackendFactory>>,
}

impl Backends {
    pub(super) fn new(wasm: Wasm, files: Components) -> Self {
        Self { wasm, files, compiled: Mutex::default(), native: BTreeMap::new() }
    }

    /// The same, with these in the place of components.
    pub(super) fn with_native(self, native: BTreeMap<Digest, Arc<dyn BackendFactory>>) -> Self {
        Self { native, ..self }
    }

    /// Takes in a component that was sent here, compiles it, and proves that a machine of the new cluster starts.
    /// Runs guest code: on a thread with a guest's stack.
    pub(super) fn prepare(&self, genesis: &Genesis, bytes: &Bytes) -> Result<(), BackendError> {
        let compiled = self.wasm.compile(bytes)?;
        Machine::start(genesis.clone(), &compiled.factory(genesis.cluster, genesis.settings.budgets))?;
        self.files.put(genesis.component, bytes)?;
        self.remember(genesis.component, compiled);
        Ok(())
    }

    /// The backend of a cluster whose component is kept here.
    pub(super) fn load(&self, genesis: &Genesis) -> Result<Arc<dyn BackendFactory>, BackendError> {
        if let Some(native) = self.native.get(&genesis.component) {
            return Ok(Arc::clone(native));
        }
        let known = self.lock().get(&genesis.component).cloned();
        let backend = match known {
            Some(backend) => backend,
            // Two peers may compile the same component at once; the result is the same.
            None => {
                let compiled = self.wasm.compile_again(&self.files.get(genesis.component)?)?;
                self.remember(genesis.component, compiled.clone());
                compiled
            }
        };
        Ok(Arc::new(backend.factory(genesis.cluster, genesis.settings.budgets)))
    }

    /// Whether a component can be run without a look at its file.
    pub(super) fn is_loaded(&self, component: Digest) -> bool {
        self.native.contains_key(&component) || self.lock().contains_key(&component)
    }

    /// The bytes of a component that is kept here.
    pub(super) fn bytes(&self, component: Digest) -> Result<Bytes, StoreError> {
        self.files.get(component)
    }

    /// Forgets all components but those that peers of this node run.
    pub(super) fn keep_only(&self, in_use: &BTreeSet<Digest>) -> Result<(), BackendError> {
        self.lock().retain(|digest, _| in_use.contains(digest));
        self.wasm.forget_all_but(in_use)?;
        for unused in self.files.list()?.into_iter().filter(|digest| !in_use.contains(digest)) {
            self.files.remove(unused)?;
        }
        Ok(())
    }

    /// Ends what compiles components, and compiles no more.
    pub(super) fn stop(&self) {
        self.wasm.stop();
    }

    fn remember(&self, component: Digest, backend: WasmBackend) {
        self.lock().insert(component, backend);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, WasmBackend>> {
        self.compiled.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;
    use crate::store::{Completion, DurableSink, Store, StoreOptions};
    use crate::types::ClusterId;

    const KV: &[u8] = include_bytes!("../../guests/dist/kv.wasm");

    struct Ignore;

    impl DurableSink for Ignore {
        fn durable(&mut self, _completions: Vec<Completion>) {}
        fn failed(&mut self, error: StoreError) {
            panic!("{error}");
        }
    }

    fn genesis(component: Digest) -> Genesis {
        Genesis { cluster: ClusterId(1), component, config: Bytes::new(), settings: Settings::default() }
    }

    fn backends(folder: &std::path::Path) -> Backends {
        let options = StoreOptions {
            log_dir: folder.join("log"),
            snapshot_dir: folder.join("snapshots"),
            node: "127.0.0.1:7400".parse().unwrap(),
            cache_bytes: 1 << 20,
            max_segment_bytes: StoreOptions::DEFAULT_MAX_SEGMENT_BYTES,
            snapshot_backup_count: 0,
        };
        let (store, _) = Store::open(options, Box::new(Ignore)).unwrap();
        Backends::new(Wasm::in_process(&folder.join("compiled")).unwrap(), store.components())
    }

    #[test]
    fn a_component_is_taken_in_only_under_its_own_digest() {
        let folder = tempfile::tempdir().unwrap();
        let backends = backends(folder.path());
        let other = genesis(Digest::of(b"another component"));
        let error = backends.prepare(&other, &Bytes::from_static(KV)).unwrap_err();
        assert!(matches!(error, BackendError::Store(StoreError::WrongDigest { .. })), "{error}");
        assert!(backends.load(&other).is_err());
        assert_eq!(backends.files.list().unwrap(), []);
    }

    #[test]
    fn what_no_peer_runs_is_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let backends = backends(folder.path());
        let kv = genesis(Digest::of(KV));
        backends.prepare(&kv, &Bytes::from_static(KV)).unwrap();
        backends.keep_only(&BTreeSet::from([kv.component])).unwrap();
        backends.load(&kv).unwrap();
        backends.keep_only(&BTreeSet::new()).unwrap();
        assert!(backends.load(&kv).is_err());
        assert_eq!(folder.path().join("compiled").read_dir().unwrap().count(), 0);
    }
}
