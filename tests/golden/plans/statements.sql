-- One plan a label, compared with <label>.txt. After the label: settings as name=value.

-- plan defaults
EXPLAIN OCCLUDE scan0 USING vgg;

-- plan residual_region
EXPLAIN OCCLUDE scan0 USING resnet FOR TOP 2
    REGION (0, 0, 32, 32)
    WITH patch=8x16 stride=4x8 fill=(1, 0.5, 0) score=log_odds border=valid memory=512MiB;

-- plan uncaptured
EXPLAIN OCCLUDE scans USING opaque WITH patch=4 stride=8 precision=float64;

-- plan stored
EXPLAIN OCCLUDE scans USING vgg FOR CLASS 'Glioma' APPROX 0.8 METRIC pearson CONFIDENCE 0.9
    WITH stride=2 batch=16 seed=7 INTO OR REPLACE monday;

-- plan share_materialisation
EXPLAIN OCCLUDE scans USING vgg WITH patch=[8, 16, 32];

-- plan share_materialisation_off disabled_rules=share_materialisation
EXPLAIN OCCLUDE scans USING vgg WITH patch=[8, 16, 32];

-- plan drop_duplicate_patches
EXPLAIN OCCLUDE scan0 USING vgg WITH patch=[16, 16x16];

-- plan drop_duplicate_patches_off disabled_rules=drop_duplicate_patches
EXPLAIN OCCLUDE scan0 USING vgg WITH patch=[16, 16x16];

-- plan drop_duplicate_classes
EXPLAIN OCCLUDE scan0 USING vgg FOR CLASSES (0, 'glioma', 3);

-- plan drop_duplicate_classes_off disabled_rules=drop_duplicate_classes
EXPLAIN OCCLUDE scan0 USING vgg FOR CLASSES (0, 'glioma', 3);

-- plan reuse_stored_cells stored=yes
EXPLAIN OCCLUDE scans USING vgg FOR CLASS 0 WITH patch=[8, 16] stride=8 INTO again;

-- plan reuse_stored_cells_off stored=yes disabled_rules=reuse_stored_cells
EXPLAIN OCCLUDE scans USING vgg FOR CLASS 0 WITH patch=[8, 16] stride=8 INTO again;

-- plan choose_engine_off disabled_rules=choose_engine
EXPLAIN OCCLUDE scan0 USING vgg;

-- plan other_choices_off disabled_rules=choose_switch_layer,bucket_windows,choose_batch,choose_threads,choose_layout,skip_unchanged
EXPLAIN OCCLUDE scan0 USING resnet;

-- plan choose_refinement
EXPLAIN OCCLUDE scan0 USING vgg WITH stride=2 APPROX 0.9;

-- plan choose_refinement_off disabled_rules=choose_refinement
EXPLAIN OCCLUDE scan0 USING vgg WITH stride=2 APPROX 0.9;

-- plan choose_proxy
EXPLAIN OCCLUDE scan0 USING vit WITH patch=8 stride=2 APPROX 0.9;

-- plan choose_proxy_off disabled_rules=choose_proxy
EXPLAIN OCCLUDE scan0 USING vit WITH patch=8 stride=2 APPROX 0.9;

-- plan budget_tokens_off disabled_rules=budget_tokens
EXPLAIN OCCLUDE scan0 USING vit WITH patch=8 stride=2 APPROX 0.9;

-- plan freeze_gates
EXPLAIN OCCLUDE scan0 USING gated WITH patch=8 stride=2 APPROX 0.9;

-- plan freeze_gates_off disabled_rules=freeze_gates
EXPLAIN OCCLUDE scan0 USING gated WITH patch=8 stride=2 APPROX 0.9;

-- plan top_cells
EXPLAIN OCCLUDE scan0 USING vgg TOP 10 CELLS;

-- plan reduced_precision bfloat16=1
EXPLAIN OCCLUDE scans USING vgg WITH patch=[8, 16] stride=2 APPROX 0.9;

-- plan reduced_precision_off bfloat16=1 disabled_rules=choose_reduced_precision
EXPLAIN OCCLUDE scans USING vgg WITH patch=[8, 16] stride=2 APPROX 0.9;

-- plan batch_images
EXPLAIN OCCLUDE scans USING vgg WITH patch=16 stride=16;

-- plan batch_images_off disabled_rules=batch_images
EXPLAIN OCCLUDE scans USING vgg WITH patch=16 stride=16;
