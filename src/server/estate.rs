//! The estate: the ground and the house that stands on it now.
//!
//! Owns: which house is in force. Never touches: listeners, signals.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::config::Config;
use crate::front::Doors;
use crate::front::door::Door;
use crate::server::ground::Ground;
use crate::server::house::House;
use crate::upstream::peer::RootsError;

/// What runs.
pub(super) struct Estate {
    pub(super) ground: Ground,
    house: ArcSwap<House>,
}

impl Estate {
    /// The first house on `ground`.
    pub(super) fn found(config: Config, ground: Ground) -> Result<Arc<Self>, RootsError> {
        let house = House::build(config, &ground)?;
        Ok(Arc::new(Self { ground, house: ArcSwap::from_pointee(house) }))
    }

    /// The house in force.
    pub(super) fn house(&self) -> Arc<House> {
        self.house.load_full()
    }
}

impl Doors for Estate {
    fn current(&self) -> Arc<Door> {
        Arc::clone(&self.house.load().door)
    }
}
