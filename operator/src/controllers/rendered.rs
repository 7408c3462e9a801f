//! What a mesh consists of: rendered once for all looks at it. An edit is put back the sooner.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    object::ObjectError,
    render::{self, Mesh, Tier},
};

/// Each look renders a mesh as its spec says, and once more with what is kept of its objects.
const KINDS: usize = 2;

/// What was rendered lately.
#[derive(Default)]
pub(super) struct Rendered(Mutex<VecDeque<(Mesh, Arc<[Tier]>)>>);

impl Rendered {
    /// What this mesh consists of.
    pub(super) fn of(&self, mesh: &Mesh) -> Result<Arc<[Tier]>, ObjectError> {
        if let Some((_, tiers)) = self.lock().iter().find(|(known, _)| known == mesh) {
            return Ok(Arc::clone(tiers));
        }
        let tiers: Arc<[Tier]> = render::mesh(mesh)?.into();
        let mut known = self.lock();
        known.truncate(KINDS - 1);
        known.push_front((mesh.clone(), Arc::clone(&tiers)));
        Ok(tiers)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<(Mesh, Arc<[Tier]>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use nsm_crds::{NSMConfig, NSMConfigSpec};

    use super::*;
    use crate::validate::{self, Installation};

    fn mesh(image: &str) -> Mesh {
        let installation = Installation {
            mesh_image: image.into(),
            namespace: "nsm-operator".into(),
            service_account: "nsm-operator".into(),
        };
        let mut config = NSMConfig::new("default", NSMConfigSpec::default());
        config.metadata.uid = Some("u".into());
        validate::mesh(&config, &installation).unwrap()
    }

    #[test]
    fn a_mesh_is_rendered_once_and_another_one_as_itself() {
        let rendered = Rendered::default();
        let (one, other, third) = (mesh("one:1"), mesh("other:1"), mesh("third:1"));
        let first = rendered.of(&one).unwrap();
        assert_eq!(*first, *render::mesh(&one).unwrap());
        assert_eq!(*rendered.of(&other).unwrap(), *render::mesh(&other).unwrap());
        assert!(Arc::ptr_eq(&first, &rendered.of(&one).unwrap()));
        rendered.of(&third).unwrap();
        assert_eq!(rendered.lock().len(), KINDS);
        assert_eq!(*rendered.of(&one).unwrap(), *first);
    }
}
