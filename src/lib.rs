//! The embeddable face of Anabranch.
