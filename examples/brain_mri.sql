-- Where does a brain-MRI classifier look? Occlusion maps of one scan of each class, then questions in SQL.
--
-- `make demo` runs this, after scripts/fetch_assets.py has put the network and the scans into data/.

-- The network: a VGG16 that tells glioma, meningioma, pituitary tumour and no tumour apart, 240 x 240 pixels.
CREATE OR REPLACE MODEL tumour FROM 'data/tumour/vgg16.onnx'
    WITH classes=['glioma', 'meningioma', 'notumor', 'pituitary'];

-- The scans. Their names say the diagnosis: Te-gl_0010.jpg is a glioma.
CREATE OR REPLACE IMAGES scans FROM (
    SELECT file AS path,
           CASE parse_filename(file)[4:5]
               WHEN 'gl' THEN 'glioma' WHEN 'me' THEN 'meningioma' WHEN 'pi' THEN 'pituitary' ELSE 'notumor'
           END AS label
    FROM glob('data/mri/*.jpg')
);

-- Is the model, with this preprocessing, right at all?
PREDICT scans USING tumour FOR TOP 1;

-- One scan of each class.
CREATE OR REPLACE IMAGES chosen FROM (
    SELECT path, label FROM image_sets
    WHERE name = 'scans' AND parse_filename(path, true) IN ('Te-gl_0014', 'Te-me_0017', 'Te-no_0023', 'Te-pi_0016')
    ORDER BY path
);

-- What would be done, and how long it would take.
PLAN EXPLAIN OCCLUDE chosen USING tumour FOR LABEL
    WITH patch=16 stride=8 fill=black score=log_odds INTO OR REPLACE brain;

-- Hide every window of 16 x 16 pixels, in steps of 8, and see how the class's score falls. Hidden pixels become black
-- as the air around the head is. The network is saturated: its probability is 0.999 nearly whatever is hidden, and a map
-- of it would be flat; log-odds still tell how much evidence a window holds.
EXPLAIN OCCLUDE chosen USING tumour FOR LABEL
    WITH patch=16 stride=8 fill=black score=log_odds INTO OR REPLACE brain;

RENDER brain TO 'demo/brain.png';

-- Saturation in numbers: how far each map reaches as probabilities, and as log-odds.
SELECT class_name, max(probability) - min(probability) AS range_of_probability,
       max(log_odds) - min(log_odds) AS range_of_log_odds
FROM cells JOIN runs USING (run_id)
WHERE run_name = 'brain'
GROUP BY class_name ORDER BY class_name;

-- The most important windows of each map (pixels of the model's input), and what the model says without them.
SELECT images.name AS scan, class_name, top_px, left_px, round(importance, 2) AS importance,
       round(cells.log_odds, 2) AS log_odds, models.classes[top_class + 1] AS would_say
FROM cells
JOIN runs USING (run_id)
JOIN images USING (image_id)
JOIN models ON models.name = runs.model
WHERE run_name = 'brain'
QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY importance DESC) <= 3
ORDER BY scan, importance DESC;

-- Where does the evidence lie? Share of all positive importance whose window has its centre in the middle of the scan
-- (half the height and half the width), for each class, beside the share of windows there.
SELECT label, round(sum(importance) FILTER (middle) / sum(importance), 2) AS evidence_in_the_middle,
       round(count(*) FILTER (middle) / count(*), 2) AS windows_in_the_middle
FROM (
    SELECT images.label, greatest(importance, 0) AS importance,
           abs(top_px + height_px / 2 - 120) <= 60 AND abs(left_px + width_px / 2 - 120) <= 60 AS middle
    FROM cells JOIN runs USING (run_id) JOIN images USING (image_id)
    WHERE run_name = 'brain'
)
GROUP BY label ORDER BY evidence_in_the_middle DESC;
