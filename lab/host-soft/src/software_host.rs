//! What a software host plays: policies of the software KVM, a seeded fault, a TDX module.

use std::sync::Arc;

use tdxlab_journal::journal::SeededFault;
use tdxlab_plan::TdxModule;
use tdxlab_softkvm::{Faithful, ModuleVersion, Policy, Watched};

use crate::software;

/// Makes the policy of each session.
pub(crate) type MakePolicy = Arc<dyn Fn() -> Box<dyn Policy> + Send + Sync>;

/// Policies, fault and module of a host. The default is faithful.
#[derive(Clone)]
pub struct Software {
    pub(crate) policy: MakePolicy,
    pub(crate) fault: Option<SeededFault>,
    pub(crate) module: ModuleVersion,
}

impl Default for Software {
    fn default() -> Software {
        Software {
            policy: Arc::new(|| Box::new(Faithful)),
            fault: None,
            module: ModuleVersion::default(),
        }
    }
}

/// A host on the software KVM and TDX module.
pub trait SoftwareHost: Sized {
    /// What it plays.
    fn software(&mut self) -> &mut Software;

    /// The same host with this TDX module, for scenarios that need none in particular.
    #[must_use]
    fn with_module(mut self, module: TdxModule) -> Self {
        self.software().module = software::module_version(module);
        self
    }

    /// The same host with a fault seeded into it, and what makes the policies that play it.
    #[must_use]
    fn with_fault(mut self, (fault, make): (SeededFault, fn() -> Box<dyn Policy>)) -> Self {
        self.software().fault = Some(fault);
        self.with_policy(move || Box::new(Watched::new(make())))
    }

    /// The same host with policies made by `make`.
    #[must_use]
    fn with_policy(mut self, make: impl Fn() -> Box<dyn Policy> + Send + Sync + 'static) -> Self {
        self.software().policy = Arc::new(make);
        self
    }
}
