-- Where does a brain-MRI classifier look? Occlusion maps of one scan of each class, then questions in SQL.
--
--     python scripts/fetch_assets.py && obeql heat.duckdb -f examples/brain_mri.sql
--
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
    SELECT path, label FROM image_sets WHERE name = 'scans'
    QUALIFY row_number() OVER (PARTITION BY label ORDER BY path) = 1
);

-- What would be done, and how long it would take.
PLAN EXPLAIN OCCLUDE chosen USING tumour FOR LABEL WITH patch=16 stride=8 score=log_odds;

-- Hide every 16 x 16 window in steps of 8 pixels and see how the class's score falls. The probability of this network
-- is saturated (0.99999 whatever is hidden), so its map would be flat: log-odds still tell how much evidence was lost.
EXPLAIN OCCLUDE chosen USING tumour FOR LABEL WITH patch=16 stride=8 score=log_odds INTO OR REPLACE brain;

RENDER brain TO 'demo/brain.png';

-- Saturation in numbers: how far the four maps reach, as probabilities and as log-odds.
SELECT class_name,
       max(probability) - min(probability) AS range_of_probability,
       max(log_odds) - min(log_odds) AS range_of_log_odds
FROM cells JOIN runs USING (run_id)
WHERE run_name = 'brain'
GROUP BY class_name ORDER BY class_name;

-- The three most important windows of each map, with the class the model names when they are hidden.
SELECT images.name AS scan, cells.class_name, top_px, left_px, round(importance, 2) AS importance,
       round(score, 2) AS log_odds, models.classes[top_class + 1] AS would_say
FROM cells
JOIN runs USING (run_id)
JOIN images USING (image_id)
JOIN models ON models.name = runs.model
WHERE run_name = 'brain'
QUALIFY row_number() OVER (PARTITION BY image_id ORDER BY importance DESC) <= 3
ORDER BY scan, importance DESC;

-- Does the evidence lie inside the head? The share of positive importance in the central half of each axis.
SELECT label,
       round(sum(importance) FILTER (central) / sum(importance), 3) AS share_in_central_box,
       round(avg(central::INT), 3) AS share_if_spread_evenly
FROM (
    SELECT label, importance,
           top_px + height_px / 2 BETWEEN 60 AND 180 AND left_px + width_px / 2 BETWEEN 60 AND 180 AS central
    FROM cells JOIN runs USING (run_id) JOIN images USING (image_id)
    WHERE run_name = 'brain' AND importance > 0
)
GROUP BY label ORDER BY label;
