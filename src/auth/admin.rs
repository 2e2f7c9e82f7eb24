//! Administrators: who may use `/admin`.
//!
//! Owns their bearer tokens, kept as hashes. They are random, as publishers' keys are;
//! users' and publishers' credentials open nothing here.

use super::secret::KeyHash;

/// One administrator's token, as configured.
#[derive(Debug, Clone)]
pub struct AdminSettings {
    /// Whose it is: for the audit trail.
    pub id: String,
    /// The SHA-256 of the token.
    pub token_hash: KeyHash,
}

/// An administrator that has shown who it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Admin {
    /// Whose token it was.
    pub id: String,
}

/// All administrators of this node; none is allowed, then nobody gets in.
#[derive(Debug)]
pub struct Admins(Vec<AdminSettings>);

impl Admins {
    /// Those whose tokens are configured.
    pub fn new(settings: Vec<AdminSettings>) -> Self {
        Self(settings)
    }

    /// Whose token `bearer` is; `None`: nobody's.
    pub fn authenticate(&self, bearer: &str) -> Option<Admin> {
        // Every hash is compared, so that time does not tell how many there are.
        let (hash, mut found) = (KeyHash::of(bearer), None);
        for admin in &self.0 {
            if admin.token_hash == hash {
                found = Some(Admin {
                    id: admin.id.clone(),
                });
            }
        }
        found
    }
}
