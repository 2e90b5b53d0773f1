// The fields of Modifiers, each a number: name and default. Whoever includes this says what TORCHCLIP_MODIFIER makes of
// one.

TORCHCLIP_MODIFIER(clip, 0);                // ClipKind
TORCHCLIP_MODIFIER(clip_scope, 0);          // Scope
TORCHCLIP_MODIFIER(nonfinite, 0);           // NonFinite
TORCHCLIP_MODIFIER(limit, kUnlimited);      // max_norm, max_value, clipping or lambda_abs, at least 0
TORCHCLIP_MODIFIER(smooth, 0);              // 0 or 1
TORCHCLIP_MODIFIER(unit_eps, 0);            // the least norm of a unit's weights, above 0
TORCHCLIP_MODIFIER(percentile, 0);          // in [0, 100]
TORCHCLIP_MODIFIER(window, 0);              // norms that AutoClip remembers, 1 to 1024
TORCHCLIP_MODIFIER(z_alpha, 0);             // weight of the past, ZClip's or AdaGC's, in [0, 1)
TORCHCLIP_MODIFIER(z_threshold, 0);         // above 0
TORCHCLIP_MODIFIER(z_warmup, 0);            // steps, at least 1
TORCHCLIP_MODIFIER(z_eps, 0);               // at least 0
TORCHCLIP_MODIFIER(step_size, 0);           // StepSizeKind
TORCHCLIP_MODIFIER(b0, 1);                  // above 0
TORCHCLIP_MODIFIER(alpha, 1);               // above 0; PolyakStep's c
TORCHCLIP_MODIFIER(c, 0);                   // the loss to reach
TORCHCLIP_MODIFIER(gradient_noise, 0);      // 0 or 1
TORCHCLIP_MODIFIER(noise_eta, 0);           // variance in the first step, at least 0
TORCHCLIP_MODIFIER(noise_gamma, 0);         // at least 0
TORCHCLIP_MODIFIER(gradient_dropout, 0);    // 0 or 1
TORCHCLIP_MODIFIER(gradient_threshold, 0);  // an element is dropped when its word is below this
TORCHCLIP_MODIFIER(lr_dropout, 0);          // 0 or 1
TORCHCLIP_MODIFIER(lr_threshold, 0);
TORCHCLIP_MODIFIER(lookahead_k, 0);      // steps between two synchronisations; 0: none
TORCHCLIP_MODIFIER(lookahead_alpha, 0);  // in [0, 1]
TORCHCLIP_MODIFIER(relative_limit, 0);   // AdaGC's lambda_rel, above 0
TORCHCLIP_MODIFIER(step_eps, 0);         // PolyakStep's eps, above 0
TORCHCLIP_MODIFIER(growth, 0);           // PolyakStep's, above 0; 0: none
TORCHCLIP_MODIFIER(skip_norm, 0);        // 0 or 1: SkipSpikes looks at the norm
TORCHCLIP_MODIFIER(skip_loss, 0);        // 0 or 1: SkipSpikes looks at the loss
TORCHCLIP_MODIFIER(skip_window, 0);      // values that SkipSpikes remembers, 2 to 1024
TORCHCLIP_MODIFIER(skip_sigma, 0);       // above 0
TORCHCLIP_MODIFIER(averages, 0);         // 0 or 1: WeightEMA, whose average is in the place of Lookahead's slow weights
TORCHCLIP_MODIFIER(ema_warmup, 0);       // 0 or 1
