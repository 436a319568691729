//! Path normal form and the choice of a route.
