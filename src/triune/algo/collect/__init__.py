"""What a step is made of besides fresh rollouts: one file per collector."""
