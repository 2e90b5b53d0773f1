"""What each kernel costs by itself: the norm pass, and the update pass of each rule, type and extension."""
